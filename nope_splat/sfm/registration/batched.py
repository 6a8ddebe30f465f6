"""Registration in batches of images, for hundreds of images.

As in ZeroGS (Chen et al., arXiv 2411.15779), all images that observe enough points are registered at once,
refined by point-to-ray consistency with fixed points, and bundle-adjusted locally while earlier images stay
fixed. Global bundle adjustment runs whenever the number of registered images has grown by half, so the times
of these runs grow geometrically, and the last run dominates the total time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from tyro.conf import Suppress

from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.registration.incremental import (
    IncrementalMapper,
    IncrementalRegistration,
    initial_pair_score,
    run_mapper,
)
from nope_splat.sfm.registration.ray_refinement import RayRefinementOptions, refine_by_rays
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import TwoViews
from nope_splat.utils.ranges import POSITIVE, SHARE
from nope_splat.utils.typing import Indices, Mask


@dataclass(frozen=True)
class BatchedRegistration:
    """Register photos in batches; suited to hundreds of photos.

    Registration starts at the photo that is matched with the most other photos.
    """

    min_coverage_ratio: Annotated[float, SHARE] = 0.5
    """A photo is included in a batch if its coverage, the number of grid cells with visible points, is at
    least this fraction of the largest coverage of any unregistered photo. Smaller values give larger
    batches."""
    max_batch_ratio: Annotated[float, POSITIVE] = 1.0
    """Maximum number of photos in a batch, as a fraction of the number of photos registered before. With
    values up to 1, a batch has at most as many photos as are already registered to constrain it."""
    incremental: IncrementalRegistration = field(
        default_factory=lambda: IncrementalRegistration(ba_global_images_ratio=1.5)
    )
    """Thresholds for the registration of each photo."""
    ray_refinement: Suppress[RayRefinementOptions] = field(default_factory=RayRefinementOptions)
    """Refinement of the poses of a batch by the distances of points from viewing rays."""

    def register(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register images in batches, starting at the image with the most verified pairs.

        Args:
            state: State without poses; changed in place.
            two_views: Relative poses and inlier matches of the image pairs.
            options: Options of triangulation and bundle adjustment.
            seed: Random seed of RANSAC.

        Returns:
            Reasons why images could not be registered, by image index.
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
        """Register the remaining images one by one in a state with poses (arguments as in `register`)."""
        return IncrementalRegistration().register_remaining(state, two_views, options, seed)


class _BatchedMapper(IncrementalMapper):
    """Mapper that registers images in batches; for the arguments, see `IncrementalMapper`."""

    def __init__(
        self,
        state: SfmState,
        two_views: TwoViews,
        registration: BatchedRegistration,
        options: MapperOptions,
        seed: int,
    ) -> None:
        super().__init__(state, two_views, registration.incremental, options, seed)
        self.batch_options = registration

    def run(self) -> Iterator[int]:
        """Register images until no more can be registered; yield the index of each registered image."""
        while not self.state.registered.all():
            coverage, _ = self._coverage()
            if coverage.any():
                batch = self._register_batch(coverage)
                if not batch:
                    continue  # each candidate has used a trial, so the loop ends eventually
                refine_by_rays(self.state, np.array(batch), self.batch_options.ray_refinement)
                self._triangulate_and_adjust(batch)
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
        """Register the images with the largest coverage by PnP, independently of each other.

        Args:
            coverage: Number of grid cells with visible points in each image, from `_coverage`; 0 for images
                that cannot be registered next. (N,).

        Returns:
            Indices of the registered images.
        """
        candidates = np.flatnonzero(coverage >= self.batch_options.min_coverage_ratio * coverage.max())
        candidates = candidates[np.argsort(-coverage[candidates], kind="stable")]
        max_size = int(np.ceil(self.batch_options.max_batch_ratio * self.state.registered.sum()))
        return [image_id for image_id in candidates[:max_size].tolist() if self._register_by_points(image_id)]

    def _local_images(self, image_ids: list[int]) -> Mask:
        """Select the new images for local bundle adjustment; earlier images stay fixed.

        Args:
            image_ids: Indices of the new images.

        Returns:
            True for images whose pose is refined. (N,).
        """
        window = np.zeros(len(self.state.registered), bool)
        window[image_ids] = True
        return window
