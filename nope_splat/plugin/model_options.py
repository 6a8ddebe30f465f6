"""Options of the model."""

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
    """Options of the model. Times are fractions of the training, so that they scale with its length."""

    camera_optimizer: NopeCameraOptimizerConfig = field(
        default_factory=lambda: NopeCameraOptimizerConfig(mode="SE3")
    )
    """The optimized cameras; mode "off" freezes the poses."""
    track_points: Literal["separate", "tied"] = "separate"
    """Track points as separate parameters (renders better), or tied to Gaussians as in arXiv 2502.19800."""
    ssim_lambda: Annotated[float, SHARE] = 0.2
    """Weight of the SSIM term in the photometric loss, relative to L1."""
    track_2d_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the reprojection error of the track points, in pixels of the full-resolution images.

    Track losses apply to cameras that Adam optimizes and to tied track points; joint refinement weights the
    reprojection error itself."""
    track_3d_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the backprojection error of the observations, in pixels at median depth."""
    depth_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the difference between rendered depth and the depth map of the image (NoPe-NeRF), at
    median depth in world units; useful for few or textureless images. The scale and shift of each map are
    fitted to the track points and then learned.

    Depth weights need depth maps from a network (see datamanager.dataparser.depth.model for requirements and
    licenses), from files (...depth.maps) or from the matcher dust3r. This loss optimizes Gaussians, scales
    and shifts, and with refinement:gradient the cameras; joint refinement does not use depth maps."""
    chamfer_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the Chamfer distance between the point clouds of neighboring depth maps, in world units
    (NoPe-NeRF), which aligns depth maps and cameras. It needs depth maps, as depth-weight does. With joint
    refinement it optimizes scales and shifts only."""
    scale_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the size of the tied track Gaussians, in world units (the median depth is one)."""
    sh_degree: Annotated[int, Interval(ge=0, le=3)] = 3
    """Highest degree of the spherical harmonics."""
    sh_degree_interval_fraction: Annotated[float, POSITIVE] = 0.03
    """Fraction of the training after which the degree of spherical harmonics increases by one."""
    background_color: Literal["random", "black", "white"] = "random"
    """Background color; random in training uses the scene's mean color in evaluation."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Rasterization mode. "antialiased" renders well at any resolution, but most viewers cannot show its .ply
    correctly."""
    num_downscales: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=2, cpu=1)] = "auto"
    """Number of times that training images are halved at the start. "auto" is 2 on a GPU and 1 on a CPU."""
    resolution_schedule_fraction: Annotated[float, POSITIVE] = 0.1
    """Fraction of the training after which the resolution doubles."""
    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"
    """Maximum number of Gaussians from densification, which also stops at one Gaussian per about 20 unmasked
    pixels of all training images. "auto" is 3 000 000 on a GPU and 60 000 on a CPU."""
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    """Options of densification: splitting, cloning, pruning and opacity resets."""

    def depth_weights(self) -> tuple[float, float]:
        """Return the weights of the losses that need depth maps."""
        return self.depth_weight, self.chamfer_weight
