"""`nope-splat reconstruct`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nope_splat import reconstruction
from nope_splat.export import write_colmap, write_report, write_transforms, writing_to
from nope_splat.images import find_photos
from nope_splat.progress import say
from nope_splat.reconstruction import ReconstructionSettings, SparseScene


def reconstruct(
    data: Path,
    output_dir: Path,
    settings: tyro.conf.OmitArgPrefixes[ReconstructionSettings] = ReconstructionSettings(),  # noqa: B008 (frozen)
) -> None:
    """Find the cameras and track points of a folder of photographs, all of them, none held out.

    Writes `transforms.json` with `sparse_pc.ply` (nerfstudio), `sparse/0` (COLMAP model) and `report.json`.
    What was computed is kept in `cache/`: the same photographs and settings again take no time.

    Args:
        data: Folder of photographs, or a folder with `images/` in it.
        output_dir: Folder to write into; made where missing.
        settings: How photographs are matched and reconstructed.
    """
    with writing_to(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    folder = find_photos(data)
    for name, reason in folder.skipped.items():
        say(f"{name} is skipped: {reason}.")
    scene = reconstruction.reconstruct(folder, settings=settings, cache_dir=output_dir / "cache")
    write_transforms(scene, folder.root, output_dir / "transforms.json")
    write_colmap(scene, output_dir / "sparse" / "0")
    write_report(scene, output_dir / "report.json", folder.skipped)
    Console().print(_summary(scene, output_dir))


def _summary(scene: SparseScene, output_dir: Path) -> Table:
    """What was found, in a few lines."""
    errors = scene.reprojection_errors()
    focal, longer_side = scene.camera.focal, int(scene.photo_sizes.max())
    field_of_view = np.rad2deg(2 * np.arctan(longer_side / (2 * focal)))
    table = Table(show_header=False)
    table.add_row("registered photos", f"{scene.registered.sum()} of {len(scene.photo_names)}")
    table.add_row("focal length", f"{focal:.1f} px, {field_of_view:.1f} degrees along the longer side")
    table.add_row("principal point", "{:+.1f}, {:+.1f} px from the centre".format(*scene.camera.offset))
    if any(scene.camera.radial):
        table.add_row("radial distortion", "{:+.4f}, {:+.4f}".format(*scene.camera.radial))
    table.add_row("reprojection error", f"mean {np.mean(errors):.2f} px, median {np.median(errors):.2f} px")
    table.add_row("track points", f"{len(scene.points)}, seen {len(scene.observations)} times")
    table.add_row("seconds", f"{sum(scene.seconds.values()):.1f}")
    table.add_row("written to", str(output_dir))
    return table
