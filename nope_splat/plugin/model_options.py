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
    """Options of the model. Times are shares of the training, so that they follow its length."""

    camera_optimizer: NopeCameraOptimizerConfig = field(
        default_factory=lambda: NopeCameraOptimizerConfig(mode="SE3")
    )
    """The optimized cameras; mode "off" freezes the poses."""
    track_points: Literal["separate", "tied"] = "separate"
    """Track points as parameters of their own (renders better) or as the centers of Gaussians (the paper)."""
    ssim_lambda: Annotated[float, SHARE] = 0.2
    """Share of the structural term in the photometric loss."""
    track_2d_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the reprojection error of the track points, in pixels of the full-resolution images.

    This and the next weight are for cameras that Adam moves and for tied track points; joint adjustments
    weight the reprojection error themselves."""
    track_3d_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the backprojection error of the observations, in pixels at median depth."""
    depth_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the difference between rendered depth and the depth map of the image (NoPe-NeRF), at
    median depth in world units: for few images, or little texture. The scale and shift of each map are
    fitted to the track points and then learned.

    Depth weights need depth maps: from a network (see datamanager.dataparser.depth.model for its requirements
    and licenses), from files (...depth.maps) or from the matcher dust3r. This one moves Gaussians, scales and
    shifts, and with refinement:gradient the cameras; joint refinement does not use depth maps."""
    chamfer_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the Chamfer distance between the clouds that the depth maps of neighboring images make,
    in world units (NoPe-NeRF): it aligns maps and cameras. Needs depth maps, as depth-weight does. With joint
    refinement it moves scales and shifts only."""
    scale_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the size of the tied track Gaussians, in world units (the median depth is one)."""
    sh_degree: Annotated[int, Interval(ge=0, le=3)] = 3
    """Highest degree of the spherical harmonics."""
    sh_degree_interval_fraction: Annotated[float, POSITIVE] = 0.03
    """Share of the training after which each further degree is used."""
    background_color: Literal["random", "black", "white"] = "random"
    """Color behind the Gaussians; random in training is the scene's mean color in evaluation."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Antialiased Gaussians render well at any resolution, but other viewers show their .ply wrongly."""
    num_downscales: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=2, cpu=1)] = "auto"
    """Training starts with images halved this many times; "auto" is 2 on a GPU and 1 on a CPU."""
    resolution_schedule_fraction: Annotated[float, POSITIVE] = 0.1
    """Share of the training after which the resolution doubles."""
    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"
    """Densification stops at this number of Gaussians, or at what the images can determine: one for
    about 20 pixels of all training images together, without those that are masked. "auto" is 3 000 000 on a
    GPU and 60 000 on a CPU."""
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    """When Gaussians are split, cloned, pruned and reset."""

    def depth_weights(self) -> tuple[float, float]:
        """Weights of the losses that need the depth maps of the images."""
        return self.depth_weight, self.chamfer_weight
