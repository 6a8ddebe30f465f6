"""The command `nope-splat reconstruct`, which runs structure from motion without training."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nope_splat import sfm as reconstruction
from nope_splat.io.export import write_colmap, write_report, write_transforms, writing_to
from nope_splat.io.images import find_images
from nope_splat.plugin.summary import reconstruction_rows, table
from nope_splat.sfm import SfmOptions

logger = logging.getLogger(__name__)


def reconstruct(
    data: Path,
    output_dir: Path,
    options: Annotated[SfmOptions, tyro.conf.arg(name="")] = SfmOptions(),  # noqa: B008 (frozen)
) -> None:
    """Estimate cameras and track points from a folder of images, without training a splat.

    Writes `transforms.json` with `sparse_pc.ply` (nerfstudio), `sparse/0` (COLMAP model) and `report.json`
    (statistics). Results are cached in the subfolder `cache/` of the output folder, and reused if images and
    options are the same.

    Args:
        data: Folder of images, or a folder that contains the image folder as `images/`.
        output_dir: Output folder; created if missing.
        options: Options of structure from motion.
    """
    with writing_to(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    folder = find_images(data, options.invert_masks)
    for name, reason in folder.skipped.items():
        logger.warning(f"Skipped {name}: {reason}.")
    scene = reconstruction.reconstruct(folder, options=options, cache_dir=output_dir / "cache")
    write_transforms(scene, folder.root, output_dir / "transforms.json")
    write_colmap(scene, output_dir / "sparse" / "0")
    write_report(scene, output_dir / "report.json", folder.skipped)
    Console().print(table("Reconstruction", reconstruction_rows(scene) | {"written to": str(output_dir)}))
