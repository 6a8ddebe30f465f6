"""Set up trainers of nope-splat and splatfacto without running them.

Both trainers use the same images and cameras, in the world frame of the reconstruction, and optionally the
same Gaussians. `iterate` runs one iteration as nerfstudio's training loop does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.scripts import train
from torch import Tensor
from torch.nn import Parameter

from nope_splat.plugin.device import require_device
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.trainer import NopeTrainer
from nope_splat.splatting.gaussians import PARAMETERS
from scripts.benchmark.splatfacto_peer import Settings, run_anywhere, splatfacto_config
from scripts.gpu.timed_training import Method, start

LENGTH = 30_000
"""Number of iterations for which the trainers are configured, the default of both methods on CUDA."""
FIRST_STEP = 16_000
"""Number of the first iteration that is run. From there on, both methods train at full resolution with all
spherical harmonics."""
NEVER = 10**9


@dataclass(frozen=True)
class Scene:
    """Scene that `scripts.gpu.scene` has prepared, with settings of the trainers."""

    data: Path
    """Folder of the images."""
    scene: Path
    """Output folder of `scripts.gpu.scene`."""
    output_dir: Path
    """Output folder of the trainers."""
    max_image_size: int
    """Longer side of the training images in pixels."""
    eval_interval: int
    """Interval of the held-out images: with interval n, the first image and every n-th image after it are
    held out."""


def set_up(method: Method, scene: Scene, gaussians: Mapping[str, Tensor] | None = None) -> Trainer:
    """Set up a trainer with a fixed number of Gaussians and without joint refinement.

    Args:
        method: Name of the method.
        scene: Prepared scene and settings of the trainers.
        gaussians: Parameters of the Gaussians, by name; None for the initial Gaussians of the method.

    Returns:
        The trainer, ready to run iteration `FIRST_STEP`.
    """
    if torch.cuda.is_available():
        require_device("cuda")
    captured: list[Trainer] = []
    setup_optimizers = Trainer.setup_optimizers

    def with_gaussians(trainer: Trainer) -> Any:
        if gaussians is not None:
            _replace(trainer.pipeline.model, gaussians)
        return setup_optimizers(trainer)

    def capture(trainer: Trainer) -> None:
        captured.append(trainer)

    with (
        mock.patch.object(Trainer, "train", capture),
        mock.patch.object(NopeTrainer, "train", capture),
        mock.patch.object(Trainer, "setup_optimizers", with_gaussians),
    ):
        if method == "nope-splat":
            start("nope-splat", our_flags(scene))
        else:
            _start_splatfacto(scene)
    (trainer,) = captured
    trainer.callbacks = [
        callback
        for callback in trainer.callbacks
        if getattr(callback.func, "__func__", None) is not NopePipeline.adjust_cameras
    ]
    model: Any = trainer.pipeline.model
    model.step = FIRST_STEP  # splatfacto's SH degree depends on the step, also in renderings
    strategy = model.strategy
    # Densification statistics are accumulated as in the first half of a training, but not used.
    strategy.refine_start_iter = strategy.refine_stop_iter = strategy.reset_every = NEVER
    return trainer


def our_flags(scene: Scene) -> list[str]:
    """Return the flags of `ns-train nope-splat` for a trainer whose Gaussians start at track points only.

    Args:
        scene: Prepared scene and settings of the trainers.
    """
    parser = "--pipeline.datamanager.dataparser"
    flags = {
        "--data": scene.data,
        "--output-dir": scene.output_dir,
        "--experiment-name": "scene",
        "--timestamp": "run",
        "--resume": "never",
        "--vis": "tensorboard",
        "--machine.device-type": "cuda" if torch.cuda.is_available() else "cpu",
        "--max-num-iterations": LENGTH,
        f"{parser}.max-image-size": scene.max_image_size,
        f"{parser}.eval-interval": scene.eval_interval,
        f"{parser}.matching.seed": 0,
        f"{parser}.seeds": "tracks",
        f"{parser}.cache-dir": scene.scene / "cache",
    }
    return [str(part) for flag in flags.items() for part in flag]


def _start_splatfacto(scene: Scene) -> None:
    run_anywhere()
    config = splatfacto_config(Settings(scene.scene / "splat", scene.output_dir, LENGTH))
    datamanager: Any = config.pipeline.datamanager
    dataparser = datamanager.dataparser
    # Keep the world frame, so that the same Gaussians fit both methods.
    dataparser.orientation_method = dataparser.center_method = "none"
    dataparser.auto_scale_poses = dataparser.assume_colmap_world_coordinate_convention = False
    train.main(config)


def _replace(model: Any, gaussians: Mapping[str, Tensor]) -> None:
    device = model.gauss_params["means"].device
    for name in PARAMETERS:
        model.gauss_params[name] = Parameter(gaussians[name].detach().clone().to(device))


def iterate(trainer: Trainer, step: int) -> None:
    """Run one training iteration with nerfstudio's callbacks.

    Args:
        trainer: Trainer from `set_up`.
        step: Number of the iteration.
    """
    trainer.step = step
    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    trainer.train_iteration(step)
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
