"""Test the whole benchmark on a synthetic scene."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro

from nope_splat.plugin.config import nope_splat
from scripts.benchmark import run

MARKERS = (tyro.conf.SuppressFixed, tyro.conf.FlagConversionOff)
"""How `ns-train` parses options."""


@pytest.mark.parametrize("method", [name for name, entry in run.METHODS.items() if "mapper" not in entry])
def test_training_commands_are_valid(method: str, tmp_path: Path) -> None:
    scene: Any = SimpleNamespace(folder=SimpleNamespace(root=tmp_path), out=tmp_path)
    settings = run.Settings((tmp_path,), tmp_path, train_flag=("--pipeline.model.sh-degree=2",))
    command, _ = run._our_commands(method, 1, scene, settings)
    config: Any = tyro.cli(
        type(nope_splat.config), default=nope_splat.config, args=command[2:], config=MARKERS
    )
    assert config.pipeline.model.sh_degree == 2
    assert config.pipeline.datamanager.dataparser.sfm.matching.seed == 1


@pytest.mark.slow
def test_both_methods_are_measured(valley: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    settings = run.Settings(
        (valley,),
        tmp_path,
        methods=("reconstruction", "colmap-incremental-pp", "default"),
        seeds=(1,),
        iterations=60,
        max_image_size=160,
        max_gaussians=20_000,
    )
    run.main(settings)
    rows = {row["method"]: row for row in json.loads((tmp_path / "benchmark.json").read_text())["rows"]}
    assert list(rows) == list(settings.methods)
    for row in rows.values():
        assert "error" not in row
        assert row["cameras"]["auc_5"] > 90
    views = {method: row["held_out"] for method, row in rows.items() if row["held_out"]}
    assert len(views) == 2
    for view in views.values():
        assert view["psnr"] > 12
        assert 0 < view["covered"] <= 1
    coverages = {view["covered"] for view in views.values()}
    assert len(coverages) == 1

    started = (tmp_path / valley.name / "default-1" / "train" / "stage.json").stat().st_mtime
    run.main(settings)  # no stage runs twice
    assert (tmp_path / valley.name / "default-1" / "train" / "stage.json").stat().st_mtime == started
