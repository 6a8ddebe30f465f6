"""Train stock splatfacto on a COLMAP model, also on a CPU: the second half of COLMAP + splatfacto.

    python -m scripts.benchmark.splatfacto_peer --data DIR --output-dir OUT --max-num-iterations 1000

`DIR` contains `images/` and the COLMAP model in `sparse/0`; all images are used for training. Configuration,
trainer, pipeline, data manager, COLMAP data parser and model are nerfstudio's, and poses are frozen, which is
the default. The differences are:

- Without CUDA, the model uses nope-splat's rasterizer and nope-splat's SSIM, which is faster and gives the
same values, and calls of `.cuda()` do nothing. With CUDA, the model uses gsplat.
- The schedule is scaled to the number of iterations, see `configs/splatfacto.json`.
- The number of Gaussians is limited as in nope-splat: near the limit, only the Gaussians with the largest
gradients are duplicated or split.
- LPIPS is omitted, since its weights must be downloaded and only splatfacto's evaluation needs it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from gsplat.strategy import DefaultStrategy
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models import splatfacto
from torch import Tensor

from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.plugin.model import NopeSplatModel
from nope_splat.splatting.densification import CappedStrategy
from nope_splat.splatting.gaussians import PARAMETERS, Gaussians, activate
from nope_splat.splatting.rasterizer import rasterization, ssim

SCHEDULES: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "configs" / "splatfacto.json").read_text()
)
NEVER = 10**6
LPIPS = "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity"


@dataclass(frozen=True)
class Settings:
    """Settings of a splatfacto training."""

    data: Path
    """Folder with `images/` and the COLMAP model in `sparse/0`."""
    output_dir: Path
    """Output folder of the run."""
    max_num_iterations: int = 30_000
    """Number of iterations of the training."""
    max_gaussians: int = 3_000_000
    """Maximum number of Gaussians; densification stops at this number."""
    schedule: str = "proportional"
    """Name of a schedule in `configs/splatfacto.json`, which scales splatfacto's schedule to the number of
    iterations."""
    seed: int = 42
    """Seed of the training."""


class CappedDefaultStrategy(CappedStrategy):
    """gsplat's default densification strategy with a maximum number of Gaussians."""

    step_post_backward = DefaultStrategy.step_post_backward


class Similarity(torch.nn.Module):
    """nope-splat's mean structural similarity (SSIM) with the interface of splatfacto's SSIM."""

    def forward(self, image: Tensor, rendered: Tensor) -> Tensor:
        """Compute the SSIM of two images (1, 3, H, W). Only the rendering receives a gradient."""
        return ssim(rendered[0].permute(1, 2, 0), image[0].permute(1, 2, 0))


@dataclass
class PeerModelConfig(splatfacto.SplatfactoModelConfig):
    """Configuration of splatfacto with a maximum number of Gaussians."""

    _target: type = field(default_factory=lambda: PeerModel)
    max_gaussians: int = 3_000_000
    """Maximum number of Gaussians; densification stops at this number."""


class PeerModel(splatfacto.SplatfactoModel):
    """Splatfacto with a maximum number of Gaussians, and the interface that nope-splat's evaluation needs."""

    config: PeerModelConfig

    def populate_modules(self) -> None:
        """Set up the model as splatfacto does, without LPIPS, and limit the number of Gaussians."""
        with mock.patch(LPIPS, return_value=torch.nn.Identity()):
            super().populate_modules()
        if not torch.cuda.is_available():
            self.ssim = Similarity()
        self.strategy = CappedDefaultStrategy(**vars(self.strategy), cap_max=self.config.max_gaussians)

    def gaussians(self) -> Gaussians:
        """Return all Gaussians with activated parameters."""
        return activate({name: self.gauss_params[name] for name in PARAMETERS})

    render = NopeSplatModel.render


def run_anywhere() -> None:
    """If there is no GPU, patch splatfacto in this process so that it runs without CUDA."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # torch's threads would compete with the rasterizer's threads
        replacements: list[tuple[Any, str, Any]] = [
            (torch.Tensor, "cuda", lambda tensor: tensor),
            (splatfacto, "rasterization", rasterization),
            (
                splatfacto,
                "get_viewmat",
                world_to_camera,
            ),  # splatfacto's version of this function needs a C++ compiler
        ]
        for owner, name, replacement in replacements:
            setattr(owner, name, replacement)


def splatfacto_config(settings: Settings) -> TrainerConfig:
    """Create splatfacto's configuration with the schedule scaled to another number of iterations.

    Args:
        settings: Settings of the training.
    """
    schedule, length = SCHEDULES[settings.schedule], settings.max_num_iterations
    config = copy.deepcopy(method_configs["splatfacto"])
    assert isinstance(config, TrainerConfig)
    num_images = sum(path.is_file() for path in (settings.data / "images").rglob("*"))
    # As in a training of 30 000 iterations, every image is used between two refinements.
    refine_every = max(min(schedule["refine_every"], length // 10), num_images)
    stock: dict[str, Any] = {
        name: value for name, value in vars(config.pipeline.model).items() if name != "_target"
    }
    config.pipeline.model = PeerModelConfig(
        **{
            **stock,
            **{name: max(1, round(share * length)) for name, share in schedule["shares"].items()},
            "refine_every": refine_every,
            "reset_alpha_every": round(schedule["reset_share"] * length / refine_every) or NEVER,
            "num_downscales": schedule["num_downscales"],
            "max_gaussians": settings.max_gaussians,
        }
    )
    for group in config.optimizers.values():
        if group["scheduler"] is not None:
            group["scheduler"].max_steps = length
    means = config.optimizers["means"]
    means["optimizer"].lr, means["scheduler"].lr_final = schedule["means_lr"]
    for name, rate in schedule.get("learning_rates", {}).items():
        config.optimizers[name]["optimizer"].lr = rate
    assert isinstance(config.pipeline.datamanager, FullImageDatamanagerConfig)
    config.pipeline.datamanager.dataparser = ColmapDataParserConfig(
        data=settings.data, colmap_path=Path("sparse/0"), downscale_factor=1, eval_mode="all"
    )
    config.max_num_iterations = length
    config.steps_per_save = length
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.output_dir, config.experiment_name, config.timestamp = settings.output_dir, "scene", "run"
    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    config.machine.seed = settings.seed
    config.vis = "tensorboard"
    return config


def run(settings: Settings) -> None:
    """Train splatfacto.

    Args:
        settings: Settings of the training.
    """
    from nerfstudio.scripts.train import main

    run_anywhere()
    main(splatfacto_config(settings))


if __name__ == "__main__":
    run(tyro.cli(Settings))
