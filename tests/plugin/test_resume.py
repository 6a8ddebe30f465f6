"""Test that interrupted and killed trainings resume with bit-identical results."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.scripts.train import main as train

from nope_splat.plugin.checkpoints import find_checkpoints, load_checkpoint
from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.trainer import NopeTrainer, NopeTrainerConfig

STEPS, SAVED, INTERRUPTED = 24, 7, 17
"""Training length, iterations between checkpoints, and the interrupted iteration."""

KILLED = """
import os, signal, sys, yaml
from pathlib import Path
from nerfstudio.scripts.train import main
from nope_splat.plugin import trainer

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def kill_in(iteration):
    return lambda self, step: kill() if step == int(sys.argv[2]) else iteration(self, step)

where, replace = sys.argv[3], os.replace
if where == "iteration":
    trainer.NopeTrainer.train_iteration = kill_in(trainer.NopeTrainer.train_iteration)
elif where == "saving":  # a second checkpoint, which is written but not in its place
    def replace_once(source, target):
        kill() if list(Path(target).parent.glob("*.ckpt")) else replace(source, target)
    os.replace = replace_once
else:
    trainer.NopePipeline.align_held_out = kill
main(yaml.unsafe_load(Path(sys.argv[1]).read_text()))
"""

Run = Callable[..., NopeTrainerConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for outputs and cache of all trainings in this file."""
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def configure(valley: Path, folder: Path) -> Run:
    """Return a factory of configurations with densification, joint refinement and held-out poses."""

    def make(output: str) -> NopeTrainerConfig:
        config = deepcopy(nope_splat.config)
        assert isinstance(config, NopeTrainerConfig)
        config.machine.device_type = "cpu"
        config.data = config.pipeline.datamanager.data = valley / "images"
        config.output_dir, config.vis = folder / output, "tensorboard"
        config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = STEPS, SAVED, 0
        config.save_only_latest_checkpoint = False
        config.pipeline.model.densification.refine_every = 5
        config.pipeline.model.num_downscales = 1
        config.pipeline.datamanager.dataparser.max_image_size = 96
        config.pipeline.datamanager.dataparser.cache_dir = folder / "cache"
        return config

    return make


@pytest.fixture(scope="module")
def uninterrupted(configure: Run) -> dict[str, Any]:
    """Return the last checkpoint of an uninterrupted training."""
    config = configure("uninterrupted")
    train(config)
    return last(config)


def runs(config: NopeTrainerConfig) -> list[Path]:
    return sorted(config.get_base_dir().parent.iterdir())


def last(config: NopeTrainerConfig) -> dict[str, Any]:
    return load_checkpoint(find_checkpoints(config.get_checkpoint_dir())[0])


def interrupt(monkeypatch: pytest.MonkeyPatch, config: NopeTrainerConfig) -> None:
    """Train until an interruption within an iteration."""
    forward = NopeTrainer.train_iteration

    def train_iteration(self: NopeTrainer, step: int) -> Any:
        result = forward(self, step)
        if step == INTERRUPTED:  # before densification and joint refinement, which are part of the iteration
            signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(NopeTrainer, "train_iteration", train_iteration)
        with pytest.raises(SystemExit) as caught:
            train(config)
    assert caught.value.code == 130


def assert_same(state: Any, expected: Any, name: str = "") -> None:
    if isinstance(expected, dict):
        assert state.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_same(state[key], value, f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(state) == len(expected), name
        for index, value in enumerate(expected):
            assert_same(state[index], value, f"{name}.{index}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(state, expected), name
    else:
        assert state == expected, name


def test_training_resumes_after_ctrl_c(
    configure: Run, uninterrupted: dict, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("interrupted")
    interrupt(monkeypatch, config)
    assert last(config)["step"] == INTERRUPTED, "nothing that was computed is lost"
    file = config.get_base_dir() / "config.yml"
    log = caplog.text
    assert f"after {INTERRUPTED + 1} of {STEPS} iterations" in log
    assert f"\nns-train nope-splat --load-config {file}\n" in log

    before = file.read_bytes()
    train(yaml.unsafe_load(before))  # like --load-config
    assert f"Resuming after {INTERRUPTED + 1} of {STEPS} iterations" in caplog.text
    assert_same(last(config), uninterrupted)
    assert len(runs(config)) == 1
    assert file.read_bytes() == before

    again = configure("interrupted")
    again.set_timestamp()
    assert not again.resumes, "what is finished stays as it is"


def test_training_resumes_after_its_outputs_were_moved(
    configure: Run, uninterrupted: dict, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("moved from")
    interrupt(monkeypatch, config)
    moved = folder / "moved to"
    subprocess.run(["cp", "-r", config.output_dir, moved], check=True)
    shutil.rmtree(config.output_dir)
    (file,) = moved.glob("*/*/*/config.yml")
    loads = NopeTrainerConfig(method_name="nope-splat", load_config=file)
    train(loads)
    assert not config.output_dir.exists()
    assert list(moved.glob("*/*/*")) == [file.parent]
    assert_same(load_checkpoint(find_checkpoints(file.parent / "nerfstudio_models")[0]), uninterrupted)


def test_training_resumes_before_a_damaged_checkpoint(
    configure: Run, uninterrupted: dict, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(monkeypatch, configure("damaged"))
    config = configure("damaged")
    checkpoint = find_checkpoints(runs(config)[0] / "nerfstudio_models")[0]
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    train(config)
    log = caplog.text
    assert f"The checkpoint {checkpoint} is damaged" in log
    assert f"Resuming after {2 * SAVED + 1} of {STEPS} iterations" in log
    assert_same(last(config), uninterrupted)


@pytest.mark.parametrize(
    "where",
    [
        "iteration",
        pytest.param("saving", marks=pytest.mark.slow),
        pytest.param("alignment", marks=pytest.mark.slow),
    ],
)
def test_training_resumes_after_being_killed(
    where: str, configure: Run, uninterrupted: dict, folder: Path
) -> None:
    output = f"killed in {where}"
    (folder / "killed.yml").write_text(yaml.dump(configure(output)))
    command = [sys.executable, "-c", KILLED, folder / "killed.yml", str(INTERRUPTED), where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    config = configure(output)
    train(config)
    assert config.resumes
    assert len(runs(config)) == 1
    assert_same(last(config), uninterrupted)
