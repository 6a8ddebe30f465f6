"""The method as `ns-train` knows it, with defaults for the machine at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from nope_splat.datamanager import NopeDataManagerConfig
from nope_splat.dataparser import NopeDataParserConfig
from nope_splat.model import NopeSplatModelConfig
from nope_splat.pipeline import NopePipelineConfig
from nope_splat.schedulers import DecayConfig
from nope_splat.trainer import NopeTrainerConfig


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over the parameters."""

    eps: float = 1e-15
    """The epsilon value to use."""
    fused: bool = True
    """Whether one kernel does the whole step."""


def _group(lr: float, scheduler: DecayConfig | None = None) -> dict[str, Any]:
    return {"optimizer": FusedAdamConfig(lr=lr), "scheduler": scheduler}


def _gaussians(cuda: bool, prefix: str = "") -> dict[str, Any]:
    """Splatfacto's learning rates; a short training needs faster shapes and calmer opacities."""
    return {
        f"{prefix}features_dc": _group(0.0025),
        f"{prefix}features_rest": _group(0.0025 / 20),
        f"{prefix}opacities": _group(0.05 if cuda else 0.025),
        f"{prefix}scales": _group(0.005 if cuda else 0.02),
        f"{prefix}quats": _group(0.001 if cuda else 0.005),
    }


def _training(device: str) -> NopeTrainerConfig:
    """Full quality on CUDA; on a CPU a size, a number of Gaussians and a length that take minutes."""
    cuda = device == "cuda"
    dataparser = NopeDataParserConfig(max_image_size=1600 if cuda else 512)
    model = NopeSplatModelConfig()
    means = _group(1.6e-4, DecayConfig(lr_final=1.6e-6))
    if not cuda:
        # A short training cannot afford opacity resets. Large Gaussians, which these would remove, are split
        # as long as there is densification; otherwise they veil views beyond the training cameras.
        model = NopeSplatModelConfig(
            num_downscales=1, max_gaussians=60_000, reset_opacity=0.0, stop_screen_size=0.5
        )
        means = _group(5e-4, DecayConfig(lr_final=5e-5))
    return NopeTrainerConfig(
        method_name="nope-splat",
        max_num_iterations=30_000 if cuda else None,
        steps_per_save=2_000 if cuda else 500,
        steps_per_eval_batch=0,
        # Every evaluation aligns the held-out photographs, which takes seconds on a CPU: once is enough.
        steps_per_eval_image=500 if cuda else 1_000,
        steps_per_eval_all_images=5_000 if cuda else 0,
        machine=MachineConfig(device_type="cuda" if cuda else "cpu"),
        pipeline=NopePipelineConfig(
            datamanager=NopeDataManagerConfig(
                dataparser=dataparser, cache_images_type="uint8" if cuda else "float32"
            ),
            model=model,
        ),
        optimizers={
            "means": means,
            **_gaussians(cuda),
            **_gaussians(cuda, "track_"),
            "track_points": _group(3e-4, DecayConfig(lr_final=3e-6)),
            "depth_corrections": _group(5e-4, DecayConfig(lr_final=5e-5)),
            "camera_opt": _group(1e-4, DecayConfig(lr_final=1e-5, warmup=0.1)),
            **{
                f"{intrinsics}_opt": _group(1e-4, DecayConfig(lr_final=1e-5, warmup=0.1))
                for intrinsics in ("focal", "principal_point", "distortion")
            },
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )


nope_splat = MethodSpecification(
    config=_training("cuda" if torch.cuda.is_available() else "cpu"),
    description="Gaussian splatting from photographs without poses or intrinsics, on CUDA or on a CPU.",
)
