"""Test the file of results, the table, and the reliability diagram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image

from scripts.reliability import diagram, table
from scripts.reliability.diagram import calibration
from scripts.reliability.results import append_row, read_rows


def row(name: str = "logo", **changes: Any) -> dict[str, Any]:
    accuracy = {
        "auc_5": 12.3,
        "ate": 4.5,
        "focal_error": -6.7,
        "wrong_rotations": ["a"],
        "wrong_images": ["a", "b"],
    }
    base = {
        "name": name,
        "family": "stationary",
        "honest": False,
        "verdict": "wrong silently",
        "right": False,
    }
    base |= {"registered": 11, "images": 12, "accuracy": accuracy, "notice_codes": [], "refused": None}
    base |= {"crashed": None, "trust": None, "reprojection_error": 0.08, "seconds": 10.0}
    return {**base, **changes}


def test_the_last_row_of_a_set_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    assert read_rows(path) == []
    for each in (row("a"), row("b"), row("a", verdict="warned")):
        append_row(path, each)
    assert [(each["name"], each["verdict"]) for each in read_rows(path)] == [
        ("a", "warned"),
        ("b", "wrong silently"),
    ]


def test_the_table_compares_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in (row(), row("facade", family="repeated"), row("fountain", honest=True, verdict="right")):
        append_row(tmp_path / "before.jsonl", each)
    warned = row(verdict="warned", notice_codes=["stationary-pixels"], trust=0.07, seconds=11.0)
    append_row(tmp_path / "after.jsonl", warned)
    table.main((tmp_path / "before.jsonl", tmp_path / "after.jsonl"))
    lines = capsys.readouterr().out.splitlines()
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in lines
        if "|" in line
    }
    assert cells["**wrong silently**"] == ["2", "", "", ""]
    assert cells["warned"] == ["", "", "1", ""]
    assert cells["sets"] == ["2", "1", "1", "0"]
    assert {"11/12", "2 (1 rotated)", "12.3", "-6.7", "stationary-pixels", "0.07", "warned"} <= set(
        cells["logo"]
    )
    assert "facade" in cells
    assert any("1.100" in line for line in lines)


def test_refusals_and_missing_files(tmp_path: Path) -> None:
    refusal = {"code": "no-baseline", "message": "only turned"}
    cells = table.row_cells(row(refused=refusal, accuracy=None, reprojection_error=None, images=0))
    assert "refused: no-baseline" in cells
    with refused("missing-file", tmp_path / "no.jsonl"):
        table.main((tmp_path / "no.jsonl",))


def test_calibration_of_known_results() -> None:
    trust = np.array([0.05, 0.05, 0.95, 0.95, 0.95, 0.95, 1.0])
    right = np.array([False, True, True, True, True, False, True])
    result = calibration(trust, right, 10)
    assert [each.count for each in result.bins] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 5]
    assert result.bins[9].observed == pytest.approx(0.8)
    assert result.bins[9].predicted == pytest.approx(0.96)
    assert result.expected_error == pytest.approx((2 * 0.45 + 5 * 0.16) / 7)
    assert result.brier == pytest.approx((0.05**2 + 0.95**2 + 3 * 0.05**2 + 0.95**2) / 7)


def test_the_diagram_is_drawn_of_results_with_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "after.jsonl"
    append_row(results, row("old"))
    with refused("invalid-option", results):
        diagram.main((results,), tmp_path / "no.png")
    for each in (row("a", trust=0.9, right=True), row("b", trust=0.2), row("c", trust=0.5, right=None)):
        append_row(results, each)
    diagram.main((results,), tmp_path / "diagram.png")
    assert Image.open(tmp_path / "diagram.png").size[0] > 400
    assert "over 2 results" in capsys.readouterr().out
