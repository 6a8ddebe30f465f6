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
    """Options of the model. Intervals are fractions of the total number of iterations."""

    camera_optimizer: NopeCameraOptimizerConfig = field(
        default_factory=lambda: NopeCameraOptimizerConfig(mode="SE3")
    )
    """Options of camera optimization; mode "off" freezes the poses."""
    track_points: Literal["separate", "tied"] = "separate"
    """Representation of the track points. "separate" optimizes track points and Gaussians independently,
    which gives better renderings. "tied" makes each track point the center of a Gaussian, as in
    arXiv:2502.19800."""
    ssim_lambda: Annotated[float, SHARE] = 0.2
    """Weight of D-SSIM in the photometric loss; L1 has the weight 1 - ssim-lambda."""
    track_2d_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the mean Huber loss of the reprojection errors of all track observations, in full-resolution
    pixels; 0 disables the loss.

    The options track-2d-weight and track-3d-weight have an effect in two cases: with refinement:gradient, and
    if track-points is "tied". They do not affect joint refinement, which weights reprojection errors
    separately."""
    track_3d_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the mean Huber loss of the distances between track points and unprojected observations; 0
    disables the loss. Each observation is unprojected at the depth of its track point. World distances are
    multiplied by the focal length, which gives full-resolution pixels at the median depth (one world
    unit)."""
    depth_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the mean absolute difference between the rendered depth and the depth map of the image
    (NoPe-NeRF), in world units (the median depth is one); 0 disables the loss. If depth maps contain inverse
    depth, inverse depths are compared. The loss is useful for few or textureless images.

    Depth maps come from a network (see datamanager.dataparser.depth.model for requirements and licenses),
    from files (datamanager.dataparser.depth.maps) or from the matcher dust3r. Each depth map is corrected as
    scale * value + shift. Scale and shift are first fitted to the track points, and then optimized by this
    loss together with the Gaussians. With refinement:gradient, the loss also optimizes the cameras; joint
    refinement does not use depth maps."""
    chamfer_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the Chamfer distance, in world units, between the unprojected depth maps of two images with
    many common matches (NoPe-NeRF); 0 disables the loss. The depth maps come from the same sources as for
    depth-weight. With refinement:gradient, the loss optimizes cameras and the scales and shifts of depth
    maps; with joint refinement, only the scales and shifts."""
    scale_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the mean standard deviation of the Gaussians tied to track points, in world units (the median
    depth is one); larger values shrink these Gaussians more. Applies only if track-points is
    "tied"."""
    sh_degree: Annotated[int, Interval(ge=0, le=3)] = 3
    """Maximum degree of the spherical harmonics; with 0, colors do not depend on the viewing direction."""
    sh_degree_interval_fraction: Annotated[float, POSITIVE] = 0.03
    """Interval between two increases of the spherical harmonics degree, as a fraction of the training run.
    The degree starts at 0 and increases by one up to sh-degree."""
    background_color: Literal["random", "black", "white"] = "random"
    """Color of pixels without Gaussians. "random" is a new random color in each training iteration, and the
    mean color of the initial Gaussians in evaluation."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Rasterization mode. "antialiased" reduces artifacts in renderings at resolutions other than the
    training resolution. However, most viewers assume "classic", and show .ply files of "antialiased" models
    incorrectly."""
    num_downscales: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=2, cpu=1)] = "auto"
    """Number of times that width and height of the training images are halved at the start of training; 0
    trains at full training resolution from the start. "auto" is 2 on a GPU and 1 on a CPU."""
    resolution_schedule_fraction: Annotated[float, POSITIVE] = 0.1
    """Interval between two doublings of the width and height of the training images, as a fraction of the
    training run. The first size depends on num-downscales; the last is the full training resolution."""
    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"
    """Number of Gaussians at which densification stops adding Gaussians. "auto" is 3 000 000 on a GPU and
    60 000 on a CPU. If sh-degree is 3, densification also stops at one Gaussian per about 20 unmasked pixels
    of all training images; with a smaller degree, this second limit is higher."""
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    """Options of densification: splitting, cloning, pruning and opacity resets."""

    def depth_weights(self) -> tuple[float, float]:
        """Return the weights of the losses that need depth maps: depth weight and Chamfer weight."""
        return self.depth_weight, self.chamfer_weight
