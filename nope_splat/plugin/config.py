"""The methods as `ns-train` knows them."""

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
from nope_splat.plugin.viewer_access import THIS_MACHINE
from nope_splat.sfm import MapperOptions, SfmOptions
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.utils.terminal import set_up_terminal

set_up_terminal()  # nerfstudio's programs import this module and print uncaught errors otherwise
print_brackets_literally()

PAPER_DEPTH_MODEL = "Intel/dpt-large"
"""The depth network of arXiv:2502.19800."""


def trainer_config(method_name: str, pipeline: NopePipelineConfig | None = None) -> NopeTrainerConfig:
    """Configure the training of a method.

    Args:
        method_name: Its name in `ns-train`.
        pipeline: Its data and model; by default those of nope-splat.
    """
    return NopeTrainerConfig(
        method_name=method_name,
        pipeline=pipeline or NopePipelineConfig(),
        steps_per_eval_batch=0,
        optimizers=optimizer_groups(),
        # By default nerfstudio's viewer serves everybody who can reach this machine, without a password.
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host=THIS_MACHINE),
        vis="viewer",
    )


def paper_pipeline() -> NopePipelineConfig:
    """Configure the method of arXiv:2502.19800 as published.

    Cameras start from monocular depth and a field of view of 60 degrees. Gaussians start on the tracks and
    stay tied to them, and gradient steps on the photometric, 2D track, 3D track and scale losses move
    everything. The only additions are features that the paper does not cover: several cameras, held-out
    views and resuming.
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
