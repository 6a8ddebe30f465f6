"""Options of the two methods of camera refinement during training: joint refinement and gradient steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import subcommand

from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE


@dataclass(frozen=True)
class JointRefinement:
    """Refine all cameras at intervals by Levenberg-Marquardt on reprojection and photometric errors."""

    start: Annotated[float, NOT_NEGATIVE] = 0.5
    """Fraction of the training run before the first refinement; 1 or more disables refinement, unless
    few-tracks-start applies. Early renderings are blurred and would bias the focal length."""
    interval: Annotated[float, POSITIVE] = 0.2
    """Fraction of the training run between two refinements; smaller values refine more often."""
    few_tracks_start: Annotated[float, SHARE] = 0.1
    """Fraction of the training run before the first refinement if photos have fewer than 200 track
    observations on average. If start is smaller, start applies. The initial poses of such photos are poor,
    and Gaussians would overfit to these poses if refinement started later. The few-tracks options have no
    effect if principal points or distortion are optimized."""
    few_tracks_interval: Annotated[float, POSITIVE] = 0.02
    """Fraction of the training run between two refinements if photos have fewer than 200 track observations
    on average. If interval is smaller, interval applies."""
    few_tracks_min_iterations: Annotated[int, COUNT] = 100
    """Minimum number of iterations before the first refinement if photos have fewer than 200 track
    observations on average. Earlier renderings show little more than the initial Gaussians."""
    max_image_size: Annotated[int, COUNT] = 800
    """Maximum longer side, in pixels, of the photos and renderings that the photometric error compares; width
    and height of larger images are halved until they fit. Smaller values make refinement faster and slightly
    less accurate."""

    def iterations(self, num_iterations: int, few_tracks: bool = False) -> tuple[int, ...]:
        """Compute the training iterations after which the cameras are refined.

        Args:
            num_iterations: Total number of training iterations.
            few_tracks: Whether photos have fewer than 200 track observations on average.

        Returns:
            Iterations in increasing order; empty if refinement would start after training.
        """
        start, interval, earliest = self.start, self.interval, 1
        if few_tracks:
            start, interval = min(start, self.few_tracks_start), min(interval, self.few_tracks_interval)
            earliest = self.few_tracks_min_iterations
        first = max(round(start * num_iterations), earliest)
        return tuple(range(first, num_iterations, max(round(interval * num_iterations), 1)))


@dataclass(frozen=True)
class GradientRefinement:
    """Optimize cameras with Adam in every iteration, by photometric and track losses (arXiv:2502.19800)."""


CameraRefinement = (
    Annotated[JointRefinement, subcommand("refinement:joint", prefix_name=False)]
    | Annotated[GradientRefinement, subcommand("refinement:gradient", prefix_name=False)]
)
