"""Definitions of the methods `nope-splat` and `nope-splat-paper` for `ns-train`."""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from nope_splat.depth import DepthSettings
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.camera_refinement import GradientRefinement
from nope_splat.plugin.console import print_brackets_literally
from nope_splat.plugin.datamanager import NopeDataManagerConfig
from nope_splat.plugin.dataparser import NopeDataParserConfig
from nope_splat.plugin.learning_rates import optimizer_groups
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.pipeline import NopePipelineConfig
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.plugin.viewer_access import LOOPBACK
from nope_splat.sfm import MapperOptions, SfmOptions
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.utils.terminal import set_up_terminal

set_up_terminal()  # nerfstudio's programs import this module, and would print a traceback for errors
print_brackets_literally()

PAPER_DEPTH_MODEL = "Intel/dpt-large"
"""Hugging Face name of the depth network used in arXiv:2502.19800."""


def trainer_config(method_name: str, pipeline: NopePipelineConfig | None = None) -> NopeTrainerConfig:
    """Create the default configuration of a method.

    Args:
        method_name: Name of the method in `ns-train`.
        pipeline: Configuration of data and model; None for the defaults of `nope-splat`.
    """
    return NopeTrainerConfig(
        method_name=method_name,
        pipeline=pipeline or NopePipelineConfig(),
        steps_per_eval_batch=0,
        optimizers=optimizer_groups(),
        # nerfstudio's default opens the viewer to the whole network, without a password.
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host=LOOPBACK),
        vis="viewer",
    )


def paper_pipeline() -> NopePipelineConfig:
    """Create the configuration of the method published in arXiv:2502.19800.

    Cameras are initialized from monocular depth and a field of view of 60 degrees. Gaussians are initialized
    at the track points and stay tied to them. Adam optimizes cameras and Gaussians with the photometric, 2D
    track, 3D track and scale losses. In addition to the published method, this configuration supports several
    cameras, held-out images and resuming a training run.
    """
    sfm = SfmOptions(
        mapper=MapperOptions(refine_principal_point=False, refine_extra_params=False),
        depth=DepthSettings(model=PAPER_DEPTH_MODEL),
        initialization=MonocularDepthInitialization(),
    )
    cameras = NopeCameraOptimizerConfig(mode="SE3", refinement=GradientRefinement())
    return NopePipelineConfig(
        datamanager=NopeDataManagerConfig(dataparser=NopeDataParserConfig(sfm=sfm, seeds="tracks")),
        model=NopeSplatModelConfig(camera_optimizer=cameras, track_points="tied", track_3d_weight=0.1),
    )


nope_splat = MethodSpecification(
    config=trainer_config("nope-splat"),
    description="Gaussian splatting from photos without poses or intrinsics, on CUDA or on a CPU.",
)
nope_splat_paper = MethodSpecification(
    config=trainer_config("nope-splat-paper", paper_pipeline()),
    description="nope-splat as published in arXiv:2502.19800: for comparisons.",
)
