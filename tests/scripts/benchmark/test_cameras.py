"""Test the camera benchmark: small effect of seeds, recovery from perturbed cameras."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark.cameras import Settings, main


def test_rows(valley: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Settings((valley,), orders=1, seeds=1, starts=1))
    lines = capsys.readouterr().out.splitlines()
    rows = {
        cells[1]: cells[2:] for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in lines[2:])
    }
    assert list(rows) == [
        "seed",
        "order (seconds without keypoints and matching)",
        "start, true",
        "start, disturbed",
    ]
    assert {cells[1] for cells in rows.values()} == {"9 / 9 / 9"}
    auc = {name: float(cells[2].split(" / ")[0]) for name, cells in rows.items()}
    assert auc["start, true"] == 100
    assert auc["start, disturbed"] == pytest.approx(auc["seed"], abs=1)
