"""Registration in batches from one image outward, for hundreds of images.

After ZeroGS (Chen et al., arXiv 2411.15779): all images that see enough of the scene are registered at
once, refined by point-to-ray consistency while earlier cameras stay where they are, and adjusted in their own
window. What touches the whole scene happens once for a batch, and global adjustments whenever the scene has
grown by half: their sizes are a geometric series, which the last one dominates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nope_splat.sfm.initialization.two_view import TwoView
from nope_splat.sfm.registration.incremental import IncrementalMapper, grow, promise
from nope_splat.sfm.registration.ray_refinement import refine_by_rays
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices, Mask

MIN_COVERAGE = 0.5
"""A batch takes in images whose visible points cover at least this share of the best one's cells."""
MAX_BATCH = 1.0
"""Largest batch, as a share of the images registered before: what it stands on must outweigh it."""


def register_batches(
    state: SfmState,
    views: dict[tuple[int, int], TwoView],
    min_angle: float,
    device: str = "cpu",
    seed: int = 0,
) -> dict[int, str]:
    """Register images in batches, from the one with the largest degree in the match graph outward.

    Args:
        state: A scene without poses; changed in place.
        views: Relative poses of the pairs.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        seed: Seed of RANSAC.

    Returns:
        Why images were not registered, by index, as far as known.
    """
    degree = np.bincount(np.ravel(list(views)), minlength=len(state.registered))

    def rank(pair: tuple[int, int]) -> tuple[int, float]:
        return int(degree[list(pair)].max()), promise(views[pair])

    pairs = sorted(views, key=rank, reverse=True)
    return grow(_BatchGrowth, state, views, pairs, min_angle, device, seed)


class _BatchGrowth(IncrementalMapper):
    """Grows a scene batch by batch."""

    global_growth = 1.5

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
        candidates = np.flatnonzero(coverage >= MIN_COVERAGE * coverage.max())
        candidates = candidates[np.argsort(-coverage[candidates], kind="stable")]
        most = int(np.ceil(MAX_BATCH * self.state.registered.sum()))
        return [image_id for image_id in candidates[:most].tolist() if self._register_by_points(image_id)]

    def _window(self, image_ids: list[int]) -> Mask:
        """The new images alone: earlier ones stay where they are. (N,)."""
        window = np.zeros(len(self.state.registered), bool)
        window[image_ids] = True
        return window
