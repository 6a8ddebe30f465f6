"""Options of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval
from nerfstudio.models.base_model import ModelConfig

from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
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

    Any depth weight asks for depth maps: from a network (see datamanager.dataparser.depth.model for what it
    needs and its licenses), one's own (...depth.maps) or the matcher dust3r. This one moves Gaussians and, as
    the next two, scales and shifts. Cameras follow all three where Adam moves them (camera-optimizer.method
    adam); joint adjustments know nothing of depth maps."""
    chamfer_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the Chamfer distance between the clouds that the depth maps of neighboring images make,
    in world units (NoPe-NeRF): it brings maps and cameras into line. Needs depth maps, as depth-weight does.
    With joint adjustments it moves scales and shifts alone."""
    surface_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the color difference between an image and where a neighbor shows the surface of its
    depth map (NoPe-NeRF): it does so by colors. Needs depth maps, as depth-weight does. With joint
    adjustments it moves scales and shifts alone."""
    scale_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the size of the tied track Gaussians, in world units (the median depth is one)."""
    sh_degree: Annotated[int, Interval(ge=0, le=3)] = 3
    """Highest degree of the spherical harmonics."""
    sh_interval: Annotated[float, POSITIVE] = 0.03
    """Share of the training after which each further degree is used."""
    background_color: Literal["random", "black", "white"] = "random"
    """Color behind the Gaussians; random in training is the scene's mean color in evaluation."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Antialiased Gaussians render well at any resolution, but other viewers show their .ply wrongly."""
    num_downscales: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=2, cpu=1)] = "auto"
    """Training starts with images halved this many times; "auto" is 2 on a GPU and 1 on a CPU."""
    resolution_interval: Annotated[float, POSITIVE] = 0.1
    """Share of the training after which the resolution doubles."""
    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"
    """Densification stops at this number of Gaussians, or at what the images can determine: one for
    about 20 pixels of all training images together, without those that are masked. "auto" is 3 000 000 on a
    GPU and 60 000 on a CPU."""
    densify_start: Annotated[float, NOT_NEGATIVE] = 0.017
    """Share of the training after which Gaussians are first split, cloned and pruned."""
    densify_stop: Annotated[float, NOT_NEGATIVE] = 0.5
    """Share of the training after which the number of Gaussians stays."""
    densify_every: Annotated[int, COUNT] = 100
    """Iterations between densifications."""
    densify_grad_thresh: Annotated[float, NOT_NEGATIVE] = 0.0008
    """Mean absolute image-plane gradient above which Gaussians grow."""
    densify_size_thresh: Annotated[float, NOT_NEGATIVE] = 0.01
    """Size in world units below which Gaussians are cloned, above which they are split."""
    split_screen_size: Annotated[float, NOT_NEGATIVE] = 0.05
    """Share of the image above which Gaussians are split."""
    cull_alpha_thresh: Annotated[float, SHARE] = 0.1
    """Opacity below which Gaussians are removed."""
    cull_scale_thresh: Annotated[float, NOT_NEGATIVE] = 0.5
    """Size in world units above which Gaussians are removed, after the first reset of opacities."""
    cull_screen_size: Annotated[float, NOT_NEGATIVE] = 0.15
    """Share of the image above which Gaussians are removed, after the first reset of opacities."""
    max_screen_size: Annotated[float, POSITIVE] = 0.25
    """Share of the image's longer side that a Gaussian may reach from its center."""
    # The short training of a CPU cannot afford opacity resets. Large Gaussians, which these would remove, are
    # split as long as there is densification; otherwise they veil views beyond the training cameras.
    stop_screen_size: Annotated[float | Auto, NOT_NEGATIVE, ByDevice(cuda=0.13, cpu=0.5)] = "auto"
    """Share of the training after which the size in the image does not matter; "auto" is 0.13 on a GPU and
    0.5 on a CPU."""
    reset_opacity: Annotated[float | Auto, NOT_NEGATIVE, ByDevice(cuda=0.1, cpu=0.0)] = "auto"
    """Share of the training between resets of the opacities, while densification lasts; 0 for never. "auto"
    is 0.1 on a GPU and 0 on a CPU."""

    def depth_weights(self) -> tuple[float, float, float]:
        """Weights of the losses that need the depth maps of the images."""
        return self.depth_weight, self.chamfer_weight, self.surface_weight
