"""Tables and plots of a benchmark."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write_report(rows: list[Row], methods: dict[str, Any], settings: Row, output_dir: Path) -> None:
    """Write `benchmark.json`, `benchmark.md` and the plots.

    Args:
        rows: One per scene, method and seed.
        methods: What `configs/benchmark.json` says about the methods.
        settings: What was measured.
        output_dir: Folder to write into.
    """
    (output_dir / "benchmark.json").write_text(
        json.dumps({"settings": settings, "methods": methods, "rows": rows}, indent=1, default=str)
    )
    (output_dir / "benchmark.md").write_text(markdown(rows))


def markdown(rows: list[Row]) -> str:
    """The tables: cameras and views of every scene and method, mean and spread over the seeds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["scene"], row["method"]), []).append(row)
    lines = []
    for (scene, method), group in groups.items():
        good = [row for row in group if "error" not in row]
        if not good:
            lines.append({"scene": scene, "method": method, "registered": "failed"})
            continue
        cells: dict[str, str] = {
            "scene": scene,
            "method": method + (f" ({len(group) - len(good)} failed)" if len(good) < len(group) else ""),
            "registered": f"{min(row['registered'] for row in good)}/{good[0]['photos']}",
        }
        for title, pick, digits in CAMERAS:
            cells[title] = spread([pick(row) for row in good], digits)
        for title, name, digits in VIEWS:
            cells[title] = spread([row["held_out"][name] for row in good if row.get("held_out")], digits)
        cells["seconds"] = spread([sum(row["seconds"].values()) for row in good], 0)
        cells["GiB"] = spread([row["peak_gib"] for row in good], 1)
        lines.append(cells)
    titles = list(dict.fromkeys(title for line in lines for title in line))
    table = [titles, ["---"] * len(titles), *([line.get(title, "") for title in titles] for line in lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n"


CAMERAS: list[tuple[str, Callable[[Row], float], int]] = [
    ("focal error %", lambda row: row["cameras"]["focal_error"], 2),
    ("AUC@5", lambda row: row["cameras"]["auc_5"], 1),
    ("AUC@30", lambda row: row["cameras"]["auc_30"], 1),
    ("RRA@5", lambda row: row["cameras"]["rra_5"], 1),
    ("RTA@5", lambda row: row["cameras"]["rta_5"], 1),
    ("ATE %", lambda row: row["cameras"]["ate"], 3),
]
VIEWS = [
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim", 3),
    ("PSNR covered", "psnr_covered", 2),
    ("PSNR t95", "psnr_trimmed", 2),
]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and, of several values, standard deviation; nothing of none."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
