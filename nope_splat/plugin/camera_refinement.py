"""How cameras are refined during training: a union of configurations, one per method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import subcommand

from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE


@dataclass(frozen=True)
class JointRefinement:
    """Refine all cameras at intervals by second-order steps on tracks and renderings."""

    start: Annotated[float, NOT_NEGATIVE] = 0.5
    """Fraction of the training before the first refinement: rough renderings bias the focal length."""
    interval: Annotated[float, POSITIVE] = 0.2
    """Fraction of the training between refinements."""
    few_tracks_start: Annotated[float, SHARE] = 0.1
    """Largest `start` where photos have few track observations (fewer than 200). Gaussians overfit poor
    initial poses; refine early and often so that they can follow."""
    few_tracks_interval: Annotated[float, POSITIVE] = 0.02
    """Largest `interval` where photos have few track observations."""
    few_tracks_min_iterations: Annotated[int, COUNT] = 100
    """Iterations after which renderings show more than the initial Gaussians."""
    max_image_size: Annotated[int, COUNT] = 800
    """Longer side, in pixels, of the photos that are compared with renderings; larger ones are downsampled. A
    quarter of the pixels constrains the cameras nearly as well, in a quarter of the time."""

    def steps(self, num_iterations: int, few_tracks: bool = False) -> tuple[int, ...]:
        """Compute the iterations after which the cameras are refined.

        Args:
            num_iterations: Length of the training.
            few_tracks: Whether images have few track observations.
        """
        start, interval, earliest = self.start, self.interval, 1
        if few_tracks:
            start, interval = min(start, self.few_tracks_start), min(interval, self.few_tracks_interval)
            earliest = self.few_tracks_min_iterations
        first = max(round(start * num_iterations), earliest)
        return tuple(range(first, num_iterations, max(round(interval * num_iterations), 1)))


@dataclass(frozen=True)
class GradientRefinement:
    """Move cameras by gradient steps together with the Gaussians and with track losses (arXiv 2502.19800)."""


CameraRefinement = (
    Annotated[JointRefinement, subcommand("refinement:joint", prefix_name=False)]
    | Annotated[GradientRefinement, subcommand("refinement:gradient", prefix_name=False)]
)
