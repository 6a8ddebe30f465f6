"""File of results: one JSON object per line. If a set has several lines, the last one is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""Result of one image set; `scripts.reliability.run.judge` lists the keys."""


def append_row(path: Path, row: Row) -> None:
    """Append a row to the file of results.

    Args:
        path: Path of the file, which is created if missing.
        row: Result of an image set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read the last row of every set, in the order of their first rows.

    Args:
        path: Path of the file. If the file does not exist, there are no rows.
    """
    if not path.exists():
        return []
    rows: dict[str, Row] = {}
    for text in path.read_text().splitlines():
        row = json.loads(text)
        rows[row["name"]] = row
    return list(rows.values())
