"""Test that killed commands are told from complete ones, and that differences are found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.analysis.random_kills import Lab, Settings
from scripts.analysis.training_results import EXPERIMENT, file_digests, progress, training_digests

SLEEPS = "print('Reading photos', flush=True); import time; time.sleep(100)"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(Settings(tmp_path))
    lab.seconds["ns-eval"] = 0.5
    return lab


def leave_training(folder: Path, value: float = 1.0, seconds: float = 3.0) -> None:
    run, cache = folder / EXPERIMENT / "nope-splat" / "run", folder / EXPERIMENT / "cache"
    for path in (run / "nerfstudio_models", cache):
        path.mkdir(parents=True)
    torch.save(
        {"step": 9, "values": torch.tensor([value])}, run / "nerfstudio_models" / "step-000000009.ckpt"
    )
    plain = json.dumps({"names": ["a"], "seconds": {"matching": seconds}})
    np.savez(cache / "scene-0.npz", points=np.arange(3), plain=np.array(plain))


def test_a_running_command_is_killed(lab: Lab, tmp_path: Path) -> None:
    assert lab.kill("ns-eval", [sys.executable, "-c", SLEEPS], tmp_path / "trial", "time")
    (kill,) = lab.kills
    assert kill.command == "ns-eval"
    assert kill.seconds < 100


def test_a_complete_command_is_not_killed(lab: Lab, tmp_path: Path) -> None:
    assert not lab.kill("ns-eval", [sys.executable, "-c", ""], tmp_path / "trial", "time")
    assert not lab.kills
    with pytest.raises(SystemExit, match="failed with status 1"):
        lab.kill("ns-eval", [sys.executable, "-c", "raise ValueError"], tmp_path / "trial", "time")


def test_results_differ_by_a_bit_but_not_by_times(lab: Lab, tmp_path: Path) -> None:
    for name, changes in {"a": {}, "b": {"seconds": 4.0}, "c": {"value": 1.0 + 2**-23}}.items():
        leave_training(tmp_path / name, **changes)
    expected = training_digests(tmp_path / "a")
    assert training_digests(tmp_path / "b") == expected
    lab.compare(tmp_path / "c", training_digests(tmp_path / "c"), expected)
    assert lab.differences == [f"{tmp_path / 'c'}: checkpoint.values"]
    assert training_digests(tmp_path / "none") != expected
    assert progress(tmp_path / "a") == "10 iterations"
    assert progress(tmp_path / "none") == "nothing kept"


def test_evaluations_are_compared_without_their_times(tmp_path: Path) -> None:
    for name, psnr, fps in (("a", 20.0, 1.0), ("b", 20.0, 2.0), ("c", 20.1, 1.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(json.dumps({"results": {"psnr": psnr, "fps": fps}}))
    first, second, third = (file_digests(tmp_path / name) for name in "abc")
    assert first == second != third
