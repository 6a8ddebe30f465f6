"""When and where a training adds and removes Gaussians, by its length and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nope_splat.splatting.densification import CappedStrategy
from nope_splat.utils.device_defaults import Auto, ByDevice, resolved
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE


@dataclass
class DensificationConfig:
    """Thresholds of densification with Splatfacto's names; times as fractions of the training."""

    start_fraction: Annotated[float, NOT_NEGATIVE] = 0.017
    """Fraction of the training after which Gaussians are first split, cloned and pruned."""
    stop_fraction: Annotated[float, NOT_NEGATIVE] = 0.5
    """Fraction of the training after which the number of Gaussians stays constant."""
    refine_every: Annotated[int, COUNT] = 100
    """Iterations between densifications."""
    densify_grad_thresh: Annotated[float, NOT_NEGATIVE] = 0.0008
    """Mean absolute image-plane gradient above which Gaussians are split or cloned."""
    densify_size_thresh: Annotated[float, NOT_NEGATIVE] = 0.01
    """Size in world units below which Gaussians are cloned, above which they are split."""
    split_screen_size: Annotated[float, NOT_NEGATIVE] = 0.05
    """Fraction of the image above which Gaussians are split."""
    cull_alpha_thresh: Annotated[float, SHARE] = 0.1
    """Opacity below which Gaussians are removed."""
    cull_scale_thresh: Annotated[float, NOT_NEGATIVE] = 0.5
    """Size in world units above which Gaussians are removed, after the first reset of opacities."""
    cull_screen_size: Annotated[float, NOT_NEGATIVE] = 0.15
    """Fraction of the image above which Gaussians are removed, after the first reset of opacities."""
    max_screen_size: Annotated[float, POSITIVE] = 0.25
    """Largest radius of a Gaussian, as a fraction of the image's longer side."""
    # The short training of a CPU cannot afford opacity resets. Large Gaussians, which these would remove, are
    # split as long as there is densification; otherwise they veil views beyond the training cameras.
    stop_screen_size_fraction: Annotated[float | Auto, NOT_NEGATIVE, ByDevice(cuda=0.13, cpu=0.5)] = "auto"
    """Fraction of the training after which the size in the image is ignored; "auto" is 0.13 on a GPU and 0.5
    on a CPU."""
    reset_alpha_fraction: Annotated[float | Auto, NOT_NEGATIVE, ByDevice(cuda=0.1, cpu=0.0)] = "auto"
    """Fraction of the training between resets of the opacities, during densification; 0 for never. "auto" is
    0.1 on a GPU and 0 on a CPU."""

    def strategy(
        self, num_iterations: int, num_views: int, num_fixed: int, max_gaussians: int
    ) -> CappedStrategy:
        """Create gsplat's strategy for one training.

        Args:
            num_iterations: Length of the training.
            num_views: Number of training images.
            num_fixed: Number of Gaussians, the first ones, that are never split, pruned or reset.
            max_gaussians: Number of Gaussians at which densification stops.
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
