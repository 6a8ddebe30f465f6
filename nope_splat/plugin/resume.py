"""Find a run that can be resumed, lock its folder, and save and restore the state of its training.

nerfstudio's checkpoints hold parameters and optimizers. The state here adds what they lack: random number
generators, image queues and densification statistics. With it, a resumed training on a CPU ends with
bit-identical Gaussians.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from nope_splat.plugin.checkpoints import checkpoint_step, find_checkpoints
from nope_splat.plugin.pipeline import NopePipeline

IGNORED_SETTINGS = ("timestamp:", "resume:")
"""First words of the configuration lines that concern the start of a run, not the training."""


def find_resumable_run(runs: Iterable[Path], settings: str, length: int) -> Path | None:
    """Find the most recent training with the same settings, if it can be resumed.

    Settings are compared as text, so that no object is constructed from a file. If the most recent training
    is complete, earlier ones are not resumed: a user who repeats a command wants a second training.

    Args:
        runs: Candidate run folders.
        settings: Configuration of the new training, as it would be saved.
        length: Number of iterations of the new training.

    Returns:
        The run folder. None if the most recent training is complete or still running, or if no training
        with these settings has a checkpoint.
    """
    latest, latest_time = None, 0.0
    for run in runs:
        checkpoints, config = find_checkpoints(run / "nerfstudio_models"), run / "config.yml"
        if not checkpoints or not config.is_file():
            continue
        saved = checkpoints[0].stat().st_mtime
        if saved < config.stat().st_mtime:  # left by an older training in a folder of the same name
            continue
        if saved > latest_time and _settings(config.read_text("utf8", "replace")) == _settings(settings):
            latest, latest_time = checkpoints[0], saved
    if latest is None or checkpoint_step(latest) + 1 >= length:
        return None
    run = latest.parent.parent
    try:
        lock_run(run).release()
    except Timeout:
        return None
    return run


def lock_run(run: Path) -> FileLock:
    """Keep other processes from training in a run folder, until the lock is released or this process ends.

    Args:
        run: The run folder.

    Returns:
        The lock. It is acquired, except on a file system without locks.

    Raises:
        Timeout: If another process trains in the folder.
    """
    lock = FileLock(run / "training.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # if the folder is not writable, saving the config reports it
        pass
    return lock


def capture_state(pipeline: NopePipeline) -> dict[str, Any]:
    """Capture the training state between two iterations, in tensors and plain containers.

    Args:
        pipeline: The pipeline in training.

    Returns:
        Input of `restore`: states of the random number generators, image queues, densification statistics
        and metrics of the last joint adjustment.
    """
    data, model = pipeline.datamanager, pipeline.model
    return {
        "random": {
            "python": random.getstate(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(model.device) if model.device.type == "cuda" else None,
            "images": data.random_generator.getstate() if hasattr(data, "random_generator") else None,
        },
        "train_unseen_cameras": list(data.train_unseen_cameras),
        "eval_unseen_cameras": list(data.eval_unseen_cameras),
        "strategy": dict(model.strategy_state),
        "last_adjustment": dict(model.camera_optimizer.last_adjustment),
    }


def restore(pipeline: NopePipeline, state: dict[str, Any]) -> None:
    """Restore the training state of a checkpoint whose parameters are already loaded.

    Args:
        pipeline: The pipeline, set up for training.
        state: Result of `capture_state`.
    """
    data, model, randomness = pipeline.datamanager, pipeline.model, state["random"]
    data.train_unseen_cameras = list(state["train_unseen_cameras"])
    data.eval_unseen_cameras = list(state["eval_unseen_cameras"])
    model.strategy_state = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in state["strategy"].items()
    }
    model.camera_optimizer.last_adjustment = dict(state["last_adjustment"])
    # Restore the generators last, because the steps above may draw random numbers.
    random.setstate(randomness["python"])
    torch.set_rng_state(randomness["torch"])
    if model.device.type == "cuda" and randomness["cuda"] is not None:
        torch.cuda.set_rng_state(randomness["cuda"], model.device)
    if randomness["images"] is not None:
        data.random_generator.setstate(randomness["images"])


def _settings(configuration: str) -> list[str]:
    return [line for line in configuration.splitlines() if not line.startswith(IGNORED_SETTINGS)]
