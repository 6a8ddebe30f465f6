"""The file of results: one JSON object per line, of which the last one of a set counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""Result of one set; `scripts.reliability.run.judge` lists the keys."""


def append_row(path: Path, row: Row) -> None:
    """Append a row.

    Args:
        path: The file; created if missing.
        row: The row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read the last row of every set, in the order of their first rows.

    Args:
        path: The file; without it there are no rows.
    """
    if not path.exists():
        return []
    rows: dict[str, Row] = {}
    for text in path.read_text().splitlines():
        row = json.loads(text)
        rows[row["name"]] = row
    return list(rows.values())
