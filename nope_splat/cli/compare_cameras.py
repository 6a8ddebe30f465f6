"""`nope-splat compare-cameras`."""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from nope_splat.evaluation import compare_cameras as comparison
from nope_splat.io.cameras import read_named_cameras


def compare_cameras(
    cameras: tyro.conf.Positional[Path],
    reference: tyro.conf.Positional[Path],
) -> None:
    """Measure cameras against others: how far their relative poses, positions and focal lengths differ.

    Either is a `transforms.json`, a folder with a COLMAP model (or with `sparse/0`), or a ground truth file.
    Images are recognized by their names; those that only the reference has count as failed. Each camera
    of the reference has a focal error of its own.

    Args:
        cameras: What to measure.
        reference: What to measure against.
    """
    found, expected = (read_named_cameras(path) for path in (cameras, reference))
    metrics = comparison.compare_cameras(found, expected)
    table = Table("images", "AUC@5", "AUC@30", "RRA@5", "RTA@5", "ATE %", "focal error %")
    table.add_row(
        f"{metrics.num_registered} of {metrics.num_images}",
        f"{metrics.auc_5:.2f}",
        f"{metrics.auc_30:.2f}",
        f"{metrics.rra_5:.1f}",
        f"{metrics.rta_5:.1f}",
        f"{metrics.ate:.4f}",
        ", ".join(f"{error:+.3f}" for error in comparison.focal_errors(found, expected)),
    )
    Console().print(table)
