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
    """Compare cameras with a reference: relative poses, positions and focal lengths.

    Both are a `transforms.json`, a folder with a COLMAP model (or with `sparse/0`), or a ground truth file.
    Images are matched by name; images that are only in the reference count as failed. The focal error is
    computed for each camera of the reference.

    Args:
        cameras: Cameras to evaluate.
        reference: Reference cameras.
    """
    estimated, expected = (read_named_cameras(path) for path in (cameras, reference))
    metrics = comparison.compare_cameras(estimated, expected)
    table = Table("images", "AUC@5", "AUC@30", "RRA@5", "RTA@5", "ATE %", "focal error %")
    table.add_row(
        f"{metrics.num_registered} of {metrics.num_images}",
        f"{metrics.auc_5:.2f}",
        f"{metrics.auc_30:.2f}",
        f"{metrics.rra_5:.1f}",
        f"{metrics.rta_5:.1f}",
        f"{metrics.ate:.4f}",
        ", ".join(f"{error:+.3f}" for error in comparison.focal_errors(estimated, expected)),
    )
    Console().print(table)
