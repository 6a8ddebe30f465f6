"""State of a training between two iterations, for checkpoints.

nerfstudio's checkpoints hold parameters and optimizers. The state here adds what they lack: random number
generators, image queues and densification statistics. With it, a resumed training on a CPU ends with
bit-identical Gaussians.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from nope_splat.plugin.pipeline import NopePipeline


def capture_state(pipeline: NopePipeline) -> dict[str, Any]:
    """Capture the training state between two iterations, in tensors and plain containers.

    Args:
        pipeline: The pipeline in training.

    Returns:
        Input of `restore`: states of the random number generators, image queues, densification statistics
        and metrics of the last joint adjustment; and the names of the held-out images.
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
