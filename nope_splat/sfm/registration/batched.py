"""Registration in batches from one image outward, for hundreds of images.

After ZeroGS (Chen et al., arXiv 2411.15779): all images that see enough of the scene are registered at
once, refined by point-to-ray consistency while earlier cameras stay where they are, and adjusted in their own
window. What touches the whole scene happens once for a batch, and global adjustments whenever the scene has
grown by half: their sizes are a geometric series, which the last one dominates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.registration.incremental import (
    IncrementalMapper,
    IncrementalRegistration,
    initial_pair_score,
    run_mapper,
)
from nope_splat.sfm.registration.ray_refinement import refine_by_rays
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import TwoViews
from nope_splat.utils.ranges import POSITIVE, SHARE
from nope_splat.utils.typing import Indices, Mask


@dataclass(frozen=True)
class BatchedRegistration:
    """Register batch by batch, outward from the photo with most partners: for hundreds of photos."""

    min_coverage_ratio: Annotated[float, SHARE] = 0.5
    """A batch takes in photos whose visible points cover at least this share of the best one's cells."""
    max_batch_ratio: Annotated[float, POSITIVE] = 1.0
    """Largest batch, as a share of the photos registered before, so that each batch is constrained by at
    least as many fixed photos."""
    incremental: IncrementalRegistration = field(
        default_factory=lambda: IncrementalRegistration(ba_global_images_ratio=1.5)
    )
    """Thresholds of each registration."""

    def register(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register images in batches, from the one with the largest degree in the match graph outward.

        Args:
            state: A state without poses; changed in place.
            two_views: Relative poses of the pairs.
            options: Triangulation and bundle adjustment.
            seed: Seed of RANSAC.

        Returns:
            Why images were not registered, by index, as far as known.
        """
        degree = np.bincount(np.ravel(list(two_views)), minlength=len(state.registered))

        def rank(pair: tuple[int, int]) -> tuple[int, float]:
            return int(degree[list(pair)].max()), initial_pair_score(self.incremental, two_views[pair])

        pairs = sorted(two_views, key=rank, reverse=True)
        return run_mapper(
            lambda: _BatchedMapper(state, two_views, self, options, seed), pairs, int((degree > 0).sum())
        )

    def register_remaining(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register the images that have no pose yet one by one; arguments as of `register`."""
        return IncrementalRegistration().register_remaining(state, two_views, options, seed)


class _BatchedMapper(IncrementalMapper):
    """Grows a model batch by batch."""

    def __init__(
        self,
        state: SfmState,
        two_views: TwoViews,
        batches: BatchedRegistration,
        options: MapperOptions,
        seed: int,
    ) -> None:
        super().__init__(state, two_views, batches.incremental, options, seed)
        self.batches = batches

    def run(self) -> Iterator[int]:
        """Register images until none is left or none can be; yields each of them."""
        while not self.state.registered.all():
            coverage, _ = self._coverage()
            if coverage.any():
                batch = self._register_batch(coverage)
                if not batch:
                    continue  # but each has used up an attempt
                refine_by_rays(self.state, np.array(batch))
                self._adjust(batch)
            else:
                attached = self._attach_by_pair()
                if attached is None:
                    return
                batch = [attached]
            self.attempts.clear()
            for image_id in batch:
                self.failures.pop(image_id, None)
            yield from batch

    def _register_batch(self, coverage: Indices) -> list[int]:
        """Register by PnP, and independently, the images that see most of the scene."""
        candidates = np.flatnonzero(coverage >= self.batches.min_coverage_ratio * coverage.max())
        candidates = candidates[np.argsort(-coverage[candidates], kind="stable")]
        most = int(np.ceil(self.batches.max_batch_ratio * self.state.registered.sum()))
        return [image_id for image_id in candidates[:most].tolist() if self._register_by_points(image_id)]

    def _window(self, image_ids: list[int]) -> Mask:
        """The new images alone: earlier ones stay where they are. (N,)."""
        window = np.zeros(len(self.state.registered), bool)
        window[image_ids] = True
        return window
