"""The command `nope-splat compare-cameras`, which measures the accuracy of cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nope_splat.evaluation import compare_cameras as comparison
from nope_splat.evaluation.compare_cameras import FocalError
from nope_splat.io.cameras import read_matching_cameras
from nope_splat.utils.terminal import printable

MAX_PRINTED = 4
"""Maximum number of cameras whose focal length errors are printed individually."""


def compare_cameras(
    cameras: tyro.conf.Positional[Path],
    reference: tyro.conf.Positional[Path],
) -> None:
    """Measure the accuracy of cameras against a reference: relative poses, positions and focal lengths.

    Cameras and reference can each be a `transforms.json`, a `ground_truth.json` from `nope-splat demo-scene`,
    a folder with a COLMAP model, or cameras exported from RealityScan, Metashape, OpenSfM or Polycam. Images
    are matched by name; images that are only in the reference count as failed. The printed table contains, in
    percent: AUC at 5 and 30 degrees, RRA and RTA at 5 degrees, absolute trajectory error (ATE) relative to
    the largest distance between two reference cameras, and the focal length error of each reference camera.
    With more than four reference cameras, the table contains only the median and the largest focal length
    error. If there are several reference cameras, the largest errors (up to four) are also printed below the
    table, each with the name of a photo of the camera.

    Args:
        cameras: File or folder with the cameras to evaluate.
        reference: File or folder with the reference cameras.
    """
    estimated, expected = read_matching_cameras(cameras, reference)
    metrics = comparison.compare_cameras(estimated, expected)
    errors = comparison.focal_errors(estimated, expected)
    table = Table("images", "AUC@5", "AUC@30", "RRA@5", "RTA@5", "ATE %", "focal error %")
    table.add_row(
        f"{metrics.num_registered} of {metrics.num_images}",
        f"{metrics.auc_5:.2f}",
        f"{metrics.auc_30:.2f}",
        f"{metrics.rra_5:.1f}",
        f"{metrics.rta_5:.1f}",
        f"{metrics.ate:.4f}",
        _focal_column(errors),
    )
    Console().print(table)
    for error in sorted(errors, key=lambda error: -abs(error.percent))[:MAX_PRINTED] if errors[1:] else ():
        others = len(error.images) - 1
        more = f" and {others} other photo{'s'[: others > 1]}" if others else ""
        print(printable(f"Focal error {error.percent:+.3f} %: {error.images[0]}{more}"))


def _focal_column(errors: Sequence[FocalError]) -> str:
    """Format focal length errors: all if there are few, else the median and the largest absolute error."""
    percents = [error.percent for error in errors]
    if len(percents) <= MAX_PRINTED:
        return ", ".join(f"{percent:+.3f}" for percent in percents)
    median = float(np.median(np.abs(percents)))
    return f"{len(percents)} cameras: median {median:.3f}, largest {max(percents, key=abs):+.3f}"
