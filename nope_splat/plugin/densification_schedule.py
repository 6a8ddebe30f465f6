"""Options of densification, and their conversion to a gsplat strategy for a given number of iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nope_splat.splatting.densification import CappedStrategy
from nope_splat.utils.device_defaults import Auto, ByDevice, resolved
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE


@dataclass
class DensificationConfig:
    """Options of densification. Options that Splatfacto also has are named as in Splatfacto.

    Options whose names end with `fraction` are times or intervals, as fractions of the training run.
    """

    start_fraction: Annotated[float, NOT_NEGATIVE] = 0.017
    """Fraction of the training run after which densification and pruning start."""
    stop_fraction: Annotated[float, NOT_NEGATIVE] = 0.5
    """Fraction of the training run after which densification and pruning stop; the number of Gaussians is
    then constant."""
    refine_every: Annotated[int, COUNT] = 100
    """Number of iterations between two densification steps; smaller values densify more often."""
    densify_grad_thresh: Annotated[float, NOT_NEGATIVE] = 0.0008
    """Gaussians are split or cloned if their image-plane gradient exceeds this threshold; smaller thresholds
    give more Gaussians. The gradient is the derivative of the loss with respect to the image position of the
    Gaussian, in image coordinates from -1 to 1. Its absolute values are summed over pixels (AbsGS), and
    averaged over views."""
    densify_size_thresh: Annotated[float, NOT_NEGATIVE] = 0.01
    """Size threshold in world units (the median depth is one). Gaussians with a gradient above
    densify-grad-thresh are split if their largest standard deviation exceeds the size threshold, and cloned
    otherwise."""
    split_screen_size: Annotated[float, NOT_NEGATIVE] = 0.05
    """Gaussians are split if their radius in an image (three standard deviations) exceeds this fraction of
    the longer image side."""
    cull_alpha_thresh: Annotated[float, SHARE] = 0.1
    """Opacity below which Gaussians are removed."""
    cull_scale_thresh: Annotated[float, NOT_NEGATIVE] = 0.5
    """Gaussians are removed if their largest standard deviation exceeds this value in world units (the median
    depth is one); applies after the first opacity reset."""
    cull_screen_size: Annotated[float, NOT_NEGATIVE] = 0.15
    """Gaussians are removed if their radius in an image (three standard deviations) exceeds this fraction of
    the longer image side; applies after the first opacity reset."""
    max_screen_size: Annotated[float, POSITIVE] = 0.25
    """Maximum radius of a Gaussian in an image (three standard deviations), as a fraction of the longer image
    side; larger Gaussians are shrunk in every iteration."""
    # Training on a CPU is too short for opacity resets, which would remove large Gaussians. Therefore large
    # Gaussians are split until densification stops; otherwise they occlude views beyond the training cameras.
    stop_screen_size_fraction: Annotated[float | Auto, NOT_NEGATIVE, ByDevice(cuda=0.13, cpu=0.5)] = "auto"
    """Fraction of the training run after which split-screen-size and cull-screen-size have no effect; "auto"
    is 0.13 on a GPU and 0.5 on a CPU."""
    reset_alpha_fraction: Annotated[float | Auto, NOT_NEGATIVE, ByDevice(cuda=0.1, cpu=0.0)] = "auto"
    """Interval between two opacity resets, as a fraction of the training run; 0 disables opacity resets.
    "auto" is 0.1 on a GPU and 0 on a CPU."""

    def strategy(
        self, num_iterations: int, num_views: int, num_fixed: int, max_gaussians: int
    ) -> CappedStrategy:
        """Create the densification strategy for one training run.

        Args:
            num_iterations: Total number of training iterations.
            num_views: Number of training images. After an opacity reset, densification pauses for
                `num_views + refine_every` iterations.
            num_fixed: Number of Gaussians tied to track points. These Gaussians are never split, cloned,
                pruned or reset.
            max_gaussians: Maximum number of Gaussians, including the fixed ones.
        """
        return CappedStrategy(
            prune_opa=self.cull_alpha_thresh,
            grow_grad2d=self.densify_grad_thresh,
            grow_scale3d=self.densify_size_thresh,
            grow_scale2d=self.split_screen_size,
            prune_scale3d=self.cull_scale_thresh,
            prune_scale2d=self.cull_screen_size,
            refine_scale2d_stop_iter=round(resolved(self.stop_screen_size_fraction) * num_iterations),
            refine_start_iter=round(self.start_fraction * num_iterations),
            refine_stop_iter=round(self.stop_fraction * num_iterations),
            reset_every=round(resolved(self.reset_alpha_fraction) * num_iterations) or 10**9,
            refine_every=self.refine_every,
            pause_refine_after_reset=num_views + self.refine_every,
            absgrad=True,
            num_fixed=num_fixed,
            cap_max=max_gaussians,
            max_scale2d=self.max_screen_size,
        )
