"""Trainers of nope-splat and of splatfacto, set up as for a training and stopped before the first iteration.

Both see the same images with the same cameras, in the world of the reconstruction, and may be given the same
Gaussians. `iterate` does what nerfstudio's loop does in an iteration.
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
"""Iterations of the training that the trainers are set up for, the default of both methods on CUDA."""
FIRST_STEP = 16_000
"""From here on both methods train at full resolution, with all degrees of the spherical harmonics."""
NEVER = 10**9


@dataclass(frozen=True)
class Scene:
    """What `gpu.scene` prepared, and how to train on it."""

    data: Path
    """Folder of the images."""
    scene: Path
    """Folder that `gpu.scene` wrote."""
    output_dir: Path
    """Where the trainers write."""
    max_image_size: int
    """Longer side of the training images in pixels."""
    eval_interval: int
    """Interval of the held-out images."""


def set_up(method: Method, scene: Scene, gaussians: Mapping[str, Tensor] | None = None) -> Trainer:
    """Set a trainer up whose number of Gaussians stays, and whose cameras are not adjusted jointly.

    Args:
        method: The method.
        scene: What to train on.
        gaussians: Parameters of the Gaussians; those that the method starts from by default.

    Returns:
        The trainer, at `FIRST_STEP`.
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
    model.step = FIRST_STEP  # splatfacto's harmonics follow it, in renderings too
    strategy = model.strategy
    # Statistics are gathered as in the first half of a training, but nothing comes of them.
    strategy.refine_start_iter = strategy.refine_stop_iter = strategy.reset_every = NEVER
    return trainer


def our_flags(scene: Scene) -> list[str]:
    """Flags of `ns-train nope-splat` for a trainer that starts from track points alone.

    Args:
        scene: What to train on.
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
    return [str(word) for flag in flags.items() for word in flag]


def _start_splatfacto(scene: Scene) -> None:
    run_anywhere()
    config = splatfacto_config(Settings(scene.scene / "splat", scene.output_dir, LENGTH))
    datamanager: Any = config.pipeline.datamanager
    dataparser = datamanager.dataparser
    # The world stays as it is, so that the same Gaussians are the same for both.
    dataparser.orientation_method = dataparser.center_method = "none"
    dataparser.auto_scale_poses = dataparser.assume_colmap_world_coordinate_convention = False
    train.main(config)


def _replace(model: Any, gaussians: Mapping[str, Tensor]) -> None:
    device = model.gauss_params["means"].device
    for name in PARAMETERS:
        model.gauss_params[name] = Parameter(gaussians[name].detach().clone().to(device))


def iterate(trainer: Trainer, step: int) -> None:
    """Do one iteration with its callbacks.

    Args:
        trainer: The trainer.
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
