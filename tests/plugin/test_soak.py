"""Test that consecutive trainings in one process do not leak memory."""

from __future__ import annotations

import gc
import os
from copy import deepcopy
from pathlib import Path
from typing import Literal

import pytest
from nerfstudio.scripts.train import main as train
from nerfstudio.utils import writer

from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.model import NopeSplatModel
from nope_splat.plugin.trainer import NopeTrainer, NopeTrainerConfig

TRAININGS = 4
GROWTH = 0.05
"""Accepted relative variation of memory from the second training on; the first compiles and imports."""


def memory() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize("vis", ["tensorboard", "viewer"])
def test_memory_does_not_grow(vis: Literal["tensorboard", "viewer"], valley: Path, tmp_path: Path) -> None:
    used = []
    for number in range(TRAININGS):
        config = deepcopy(nope_splat.config)
        assert isinstance(config, NopeTrainerConfig)
        config.machine.device_type = "cpu"
        config.data, config.output_dir, config.vis = valley / "images", tmp_path, vis
        config.viewer.quit_on_train_completion = True
        config.timestamp = str(number)
        config.max_num_iterations, config.steps_per_eval_image = 24, 0
        config.pipeline.model.densification.refine_every = 5
        config.pipeline.datamanager.dataparser.max_image_size = 160
        train(config)
        del config
        gc.collect()
        used.append(memory())
        alive = [item for item in gc.get_objects() if isinstance(item, NopeTrainer | NopeSplatModel)]
        assert not alive
        assert not writer.EVENT_WRITERS
    assert used[-1] < (1 + GROWTH) * used[1], used
