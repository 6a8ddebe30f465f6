"""Test the tables of the benchmark: means, spreads, failures."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.benchmark.report import markdown, spread, with_views, write_report

METHODS = {"peer": {"description": "the peer"}, "ours": {"description": "ours"}}
SETTINGS = {
    "iterations": 10,
    "max_image_size": 64,
    "max_gaussians": 100,
    "eval_interval": 4,
    "seeds": (1, 2),
    "jobs": 1,
}


def row(scene: str, method: str, seed: int, psnr: float) -> dict[str, Any]:
    cameras = dict.fromkeys(("focal_error", "auc_5", "auc_30", "rra_5", "rta_5", "ate"), 1.0)
    views = {"psnr": psnr, "ssim": 0.5, "psnr_covered": psnr, "psnr_trimmed": psnr}
    return {
        "scene": scene,
        "method": method,
        "seed": seed,
        "images": 6,
        "registered": 6,
        "held_out_registered": 2,
        "cameras": cameras,
        "images_held_out": {"easy.jpg": views},
        "seconds": {"mapping": 1.5, "training": 10.5},
        "peak_gib": 1.0,
    }


def cells(text: str, method: str, title: str, section: str) -> str:
    """Return one cell of the table below a heading."""
    lines = text.split(f"### {section}\n\n")[1].split("\n")
    titles = [cell.strip() for cell in lines[0].split("|")]
    line = next(line for line in lines[2:] if line.startswith(f"| {method}"))
    return line.split("|")[titles.index(title)].strip()


def test_spread_formats_mean_and_standard_deviation() -> None:
    assert spread([], 1) == ""
    assert spread([2.0], 2) == "2.00"
    assert spread([1.0, 3.0], 1) == "2.0 ± 1.4"


def test_figures_are_averaged_over_seeds_then_over_scenes() -> None:
    rows = [row("a", "ours", 1, 20.0), row("a", "ours", 2, 22.0), row("b", "ours", 1, 30.0)]
    rows.append(row("b", "ours", 2, 30.0))
    text = markdown(with_views(rows), METHODS, SETTINGS)
    assert cells(text, "ours", "PSNR", "a") == "21.00 ± 1.41"
    assert cells(text, "ours", "PSNR", "Means over the scenes") == "25.50 ± 0.71"
    assert cells(text, "ours", "seconds", "a") == "12 ± 0"


def test_a_failure_is_reported_and_not_averaged() -> None:
    failed = {"scene": "a", "method": "peer", "seed": 2, "images": 6, "error": "no model"}
    text = markdown(with_views([row("a", "peer", 1, 20.0), failed]), METHODS, SETTINGS)
    assert "peer (1 of 2 failed)" in text
    assert cells(text, "peer", "PSNR", "a") == "20.00"


def test_a_reconstruction_without_training_has_no_views() -> None:
    cameras = row("a", "ours", 1, 20.0)
    del cameras["images_held_out"]
    text = markdown(with_views([cameras, row("a", "peer", 1, 20.0)]), METHODS, SETTINGS)
    assert cells(text, "ours", "PSNR", "a") == ""
    assert cells(text, "ours", "AUC@5", "a") == "1.0"


def test_means_use_views_that_every_training_registered() -> None:
    ours, peer = row("a", "ours", 1, 20.0), row("a", "peer", 1, 20.0)
    ours["images_held_out"]["difficult.jpg"] = dict.fromkeys(ours["images_held_out"]["easy.jpg"], 10.0)
    assert [row["held_out"]["psnr"] for row in with_views([ours, peer])] == [20.0, 20.0]
    assert with_views([ours])[0]["held_out"]["psnr"] == 15.0


def test_report_writes_tables_and_plots(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    write_report([row("a", "ours", 1, 20.0), row("a", "peer", 1, 19.0)], METHODS, SETTINGS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "benchmark.json", "benchmark.md", "views.png", "time.png",
    }  # fmt: skip
