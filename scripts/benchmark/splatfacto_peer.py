"""Stock splatfacto on a COLMAP model, on a CPU as well: the second half of the peer.

    python -m scripts.benchmark.splatfacto_peer --data DIR --output-dir OUT --max-num-iterations 1000

`DIR` holds `images/` and the model in `sparse/0`; it is trained on whole. Configuration, trainer, pipeline,
data manager, COLMAP data parser and model are nerfstudio's own, and poses are frozen, as is its default. What
differs:

- Without CUDA the model runs on our rasterizer and our SSIM, which has the values of its own but takes less
  time, and its calls of `.cuda()` do nothing. With CUDA it runs on gsplat.
- Times are scaled to the length of the training, see `configs/splatfacto.json`.
- The number of Gaussians is limited as ours is: at the limit, those with the largest gradients grow first.
- LPIPS, which only its evaluation needs, is left out: its weights come from the network.
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
    """What to train."""

    data: Path
    """Folder with `images/` and the COLMAP model in `sparse/0`."""
    output_dir: Path
    """Where the run is written."""
    max_num_iterations: int = 30_000
    """Length of the training."""
    max_gaussians: int = 3_000_000
    """Limit of their number."""
    schedule: str = "proportional"
    """One of those in `configs/splatfacto.json`."""
    seed: int = 42
    """Seed of the training."""


class CappedDefaultStrategy(CappedStrategy):
    """gsplat's strategy as it is, but for a maximum."""

    step_post_backward = DefaultStrategy.step_post_backward


class Similarity(torch.nn.Module):
    """Our mean structural similarity, called as the stock one is."""

    def forward(self, image: Tensor, rendered: Tensor) -> Tensor:
        """Of two images (1, 3, H, W); a gradient flows to the rendering alone."""
        return ssim(rendered[0].permute(1, 2, 0), image[0].permute(1, 2, 0))


@dataclass
class PeerModelConfig(splatfacto.SplatfactoModelConfig):
    """Splatfacto's configuration, and a maximum."""

    _target: type = field(default_factory=lambda: PeerModel)
    max_gaussians: int = 3_000_000
    """Densification stops at this number of Gaussians."""


class PeerModel(splatfacto.SplatfactoModel):
    """Splatfacto with a maximum, and what the evaluation of held-out images asks of a model."""

    config: PeerModelConfig

    def populate_modules(self) -> None:
        """Set up as Splatfacto does, and limit the number of Gaussians."""
        with mock.patch(LPIPS, return_value=torch.nn.Identity()):
            super().populate_modules()
        if not torch.cuda.is_available():
            self.ssim = Similarity()
        self.strategy = CappedDefaultStrategy(**vars(self.strategy), cap_max=self.config.max_gaussians)

    def gaussians(self) -> Gaussians:
        """All Gaussians, ready to be rendered."""
        return activate({name: self.gauss_params[name] for name in PARAMETERS})

    render = NopeSplatModel.render


def run_anywhere() -> None:
    """Let Splatfacto run in this process without CUDA, where there is none."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # the rasterizer has its own; torch's would spin beside them
        replacements: list[tuple[Any, str, Any]] = [
            (torch.Tensor, "cuda", lambda tensor: tensor),
            (splatfacto, "rasterization", rasterization),
            (splatfacto, "get_viewmat", world_to_camera),  # the same, but compiled, which takes a compiler
        ]
        for owner, name, replacement in replacements:
            setattr(owner, name, replacement)


def splatfacto_config(settings: Settings) -> TrainerConfig:
    """Splatfacto's configuration for a training of another length.

    Args:
        settings: What to train.
    """
    schedule, length = SCHEDULES[settings.schedule], settings.max_num_iterations
    config = copy.deepcopy(method_configs["splatfacto"])
    assert isinstance(config, TrainerConfig)
    num_images = sum(path.is_file() for path in (settings.data / "images").rglob("*"))
    # In 30 000 iterations every image is seen between two refinements.
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
    """Train.

    Args:
        settings: What to train.
    """
    from nerfstudio.scripts.train import main

    run_anywhere()
    main(splatfacto_config(settings))


if __name__ == "__main__":
    run(tyro.cli(Settings))
