"""Options of the model: losses, resolution schedule, rendering and number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval
from nerfstudio.models.base_model import ModelConfig

from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.densification_schedule import DensificationConfig
from nope_splat.utils.device_defaults import Auto, ByDevice
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE


@dataclass
class NopeSplatModelOptions(ModelConfig):
    """Options of the model. Times are given as fractions of the training length."""

    camera_optimizer: NopeCameraOptimizerConfig = field(
        default_factory=lambda: NopeCameraOptimizerConfig(mode="SE3")
    )
    """Options of camera optimization; mode "off" freezes the poses."""
    track_points: Literal["separate", "tied"] = "separate"
    """Representation of the track points: "separate" parameters, which gives better renderings, or "tied" to
    the centers of Gaussians, as in arXiv 2502.19800."""
    ssim_lambda: Annotated[float, SHARE] = 0.2
    """Weight of D-SSIM in the photometric loss; L1 has the weight 1 - ssim-lambda."""
    track_2d_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the mean reprojection error of the track observations, in full-resolution pixels; 0 disables
    the loss.

    Track losses have an effect only with refinement:gradient or tied track points; joint refinement minimizes
    the reprojection error with its own weight."""
    track_3d_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the mean distance between track points and unprojected observations, in pixels at the median
    depth; 0 disables the loss."""
    depth_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the mean difference between rendered depth and the depth map of the image (NoPe-NeRF), in
    world units at the median depth; 0 disables the loss. Useful for few or textureless images. Scale and
    shift of each depth map are fitted to the track points and then optimized.

    Depth losses need depth maps from a network (see datamanager.dataparser.depth.model for requirements and
    licenses), from files (datamanager.dataparser.depth.maps) or from the matcher dust3r. This loss optimizes
    Gaussians, scales and shifts, and with refinement:gradient also the cameras; joint refinement does not use
    depth maps."""
    chamfer_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the Chamfer distance, in world units, between the unprojected depth maps of images with many
    common matches (NoPe-NeRF); 0 disables the loss. This loss aligns depth maps and cameras, and needs depth
    maps like depth-weight. With joint refinement it optimizes only scales and shifts of the depth maps."""
    scale_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the mean scale of Gaussians tied to track points, in world units (the median depth is one);
    larger values shrink these Gaussians more."""
    sh_degree: Annotated[int, Interval(ge=0, le=3)] = 3
    """Maximum degree of the spherical harmonics, 0 for colors that do not depend on the viewing direction."""
    sh_degree_interval_fraction: Annotated[float, POSITIVE] = 0.03
    """Interval, as a fraction of the training, at which the degree of the spherical harmonics increases by
    one, from 0 up to sh-degree."""
    background_color: Literal["random", "black", "white"] = "random"
    """Color of pixels without Gaussians. "random" uses another color in each training iteration, and the mean
    color of the initial Gaussians in evaluation."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Rasterization mode. "antialiased" avoids artifacts at other resolutions than that of the training, but
    most viewers cannot show its .ply correctly."""
    num_downscales: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=2, cpu=1)] = "auto"
    """Number of times that the training images are halved in size at the start of the training. "auto" is 2
    on a GPU and 1 on a CPU."""
    resolution_schedule_fraction: Annotated[float, POSITIVE] = 0.1
    """Interval, as a fraction of the training, at which the size of the training images doubles until they
    have their full training resolution."""
    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"
    """Number of Gaussians at which densification stops. "auto" is 3 000 000 on a GPU and 60 000 on a CPU.
    Densification also stops at one Gaussian per about 20 unmasked pixels of all training images."""
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    """Options of densification: splitting, cloning, pruning and opacity resets."""

    def depth_weights(self) -> tuple[float, float]:
        """Return the weights of the losses that need depth maps: depth weight and Chamfer weight."""
        return self.depth_weight, self.chamfer_weight
