"""When and where a training adds and removes Gaussians, by its length and its configuration."""

from __future__ import annotations

from nope_splat.plugin.model_options import NopeSplatModelOptions
from nope_splat.splatting.densification import CappedStrategy, max_num_gaussians
from nope_splat.utils.device_defaults import resolved


def densification(
    config: NopeSplatModelOptions, num_iterations: int, num_views: int, num_pixels: int, num_fixed: int
) -> CappedStrategy:
    """The strategy of a training.

    Args:
        config: Thresholds, and times as shares of the training.
        num_iterations: Length of the training.
        num_views: Number of training images.
        num_pixels: Number of all their pixels that no mask leaves out.
        num_fixed: How many Gaussians at the start of the rendering are never split, pruned or reset.
    """
    return CappedStrategy(
        prune_opa=config.cull_alpha_thresh,
        grow_grad2d=config.densify_grad_thresh,
        grow_scale3d=config.densify_size_thresh,
        grow_scale2d=config.split_screen_size,
        prune_scale3d=config.cull_scale_thresh,
        prune_scale2d=config.cull_screen_size,
        refine_scale2d_stop_iter=round(resolved(config.stop_screen_size) * num_iterations),
        refine_start_iter=round(config.densify_start * num_iterations),
        refine_stop_iter=round(config.densify_stop * num_iterations),
        reset_every=round(resolved(config.reset_opacity) * num_iterations) or 10**9,
        refine_every=config.densify_every,
        pause_refine_after_reset=num_views + config.densify_every,
        absgrad=True,
        num_fixed=num_fixed,
        cap_max=min(resolved(config.max_gaussians), max_num_gaussians(num_pixels, config.sh_degree)),
        max_scale2d=config.max_screen_size,
    )
