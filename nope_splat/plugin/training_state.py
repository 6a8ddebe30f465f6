"""Training state that checkpoints contain beyond the parameters and optimizers saved by nerfstudio.

This state includes random number generators, lists of the images not yet used in the current epoch, and
densification statistics. With this state, a training run that is resumed on a CPU ends with exactly the same
Gaussians as an uninterrupted training run.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from nope_splat.plugin.pipeline import NopePipeline


def capture_state(pipeline: NopePipeline) -> dict[str, Any]:
    """Capture the training state between two iterations, for a checkpoint.

    Args:
        pipeline: Pipeline in training.

    Returns:
        State for `restore_state`, as plain values and tensors in nested dictionaries: states of the random
        number generators, lists of the images not yet used in the current epoch, densification statistics,
        metrics of the last joint refinement, and names of the held-out images.
    """
    data, model, scene = pipeline.datamanager, pipeline.model, pipeline.datamanager.dataparser.scene
    return {
        "held_out": [scene.image_names[index] for index in np.flatnonzero(scene.held_out)],
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


def restore_state(pipeline: NopePipeline, state: dict[str, Any]) -> None:
    """Restore the training state from a checkpoint whose parameters and optimizers have been loaded.

    Args:
        pipeline: Pipeline that is set up for training.
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
