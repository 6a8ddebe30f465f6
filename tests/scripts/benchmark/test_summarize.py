"""Test the summary of a demo: images, focal lengths, Gaussians and metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement

from scripts.benchmark.summarize import summarize


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Write the files of `demo.sh` for two cameras, without evaluation."""
    checkpoints = tmp_path / "training" / "nope-splat" / "latest" / "nerfstudio_models"
    checkpoints.mkdir(parents=True)
    state = {
        "_extra_state": {"train": ["a", "b", "c"], "eval": ["d"]},
        "_model.camera_optimizer.base_focal": torch.tensor([600.0, 450.0]),
        "_model.camera_optimizer.log_focal": torch.tensor([0.01, 0.0]),
    }
    torch.save({"pipeline": state}, checkpoints / "step-000000009.ckpt")
    vertices = PlyElement.describe(np.zeros(3, dtype=[("x", "f4")]), "vertex")
    PlyData([vertices]).write(tmp_path / "splat.ply")
    for name in "abcde":
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(folder / f"{name}.png")
    return tmp_path


def test_figures_of_a_run(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"psnr": 31.25, "ssim": 0.9, "held_out_unregistered": 1}
    (results / "evaluation.json").write_text(json.dumps({"results": metrics}))
    summarize(results / "images", results, 12)
    text = capsys.readouterr().out
    for figure in ("4 of 5", "606.0 px, 450.0 px", "31.25 dB", "0.900", "12, from"):
        assert figure in text
    assert "1, and 1 that could not" in text
    assert "unavailable" in text  # LPIPS


def test_without_held_out_images(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summarize(results / "images", results, 12)
    assert "none, so no evaluation" in capsys.readouterr().out
