"""What a training is in the midst of, beside parameters and optimizers.

Checkpoints hold it, so that a training which was interrupted goes on as if it had not been: on a CPU it ends
with the same Gaussians, to the last bit.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from nope_splat.plugin.pipeline import NopePipeline


def present_state(pipeline: NopePipeline) -> dict[str, Any]:
    """The state between two iterations, in tensors and plain containers.

    Args:
        pipeline: Of a training.

    Returns:
        What `restore` takes: random numbers, the images that come next, the statistics of densification,
        and what the last joint adjustment did.
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
    """Bring a training, set up and with the parameters of a checkpoint, into the state of that checkpoint.

    Args:
        pipeline: Of the training.
        state: From `present_state`.
    """
    data, model, randomness = pipeline.datamanager, pipeline.model, state["random"]
    data.train_unseen_cameras = list(state["train_unseen_cameras"])
    data.eval_unseen_cameras = list(state["eval_unseen_cameras"])
    model.strategy_state = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in state["strategy"].items()
    }
    model.camera_optimizer.last_adjustment = dict(state["last_adjustment"])
    # Last, since all of the above may draw.
    random.setstate(randomness["python"])
    torch.set_rng_state(randomness["torch"])
    if model.device.type == "cuda" and randomness["cuda"] is not None:
        torch.cuda.set_rng_state(randomness["cuda"], model.device)
    if randomness["images"] is not None:
        data.random_generator.setstate(randomness["images"])
