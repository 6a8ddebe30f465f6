"""Test that the same seed gives bit-identical cameras and, on a CPU, Gaussians."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.scripts.train import main as train
from torch import Tensor

from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.trainer import NopeTrainerConfig

STEPS = 24


def checkpoint(images: Path, output: Path) -> dict[str, Any]:
    """Train briefly with densification, joint refinement and held-out poses; return the checkpoint."""
    config = deepcopy(nope_splat.config)
    assert isinstance(config, NopeTrainerConfig)
    config.machine.device_type = "cpu"
    config.data, config.output_dir, config.vis = images, output, "tensorboard"
    config.max_num_iterations, config.steps_per_eval_image = STEPS, 0
    config.pipeline.model.densification.refine_every = 5
    config.pipeline.model.num_downscales = 1
    config.pipeline.datamanager.dataparser.max_image_size = 96
    train(config)
    (file,) = config.get_checkpoint_dir().glob("*.ckpt")
    return torch.load(file, weights_only=True)


@pytest.mark.slow
def test_a_seeded_training_is_reproducible(valley: Path, tmp_path: Path) -> None:
    first, second = (checkpoint(valley / "images", tmp_path / name) for name in ("first", "second"))
    pipelines = first["pipeline"], second["pipeline"]
    assert pipelines[0].keys() == pipelines[1].keys()
    for name, value in pipelines[0].items():
        if isinstance(value, Tensor):
            assert torch.equal(value, pipelines[1][name]), name
    assert pipelines[0]["_extra_state"] == pipelines[1]["_extra_state"]
