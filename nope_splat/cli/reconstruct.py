"""The command `nope-splat reconstruct`, which runs structure from motion without training."""

from __future__ import annotations

import logging
import tempfile
from itertools import compress
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nope_splat import sfm as reconstruction
from nope_splat.io.export import check_output_folder, write_colmap, write_report, write_transforms
from nope_splat.io.image_export import (
    check_image_export,
    export_images,
    export_masks,
    has_mask,
    images_of,
    uses_original_images,
)
from nope_splat.io.images import ImageFolder, find_images
from nope_splat.io.output import writing_to
from nope_splat.plugin.summary import reconstruction_rows, table
from nope_splat.sfm import Reconstruction, SfmOptions

logger = logging.getLogger(__name__)


def reconstruct(
    data: Path,
    output_dir: Path,
    options: Annotated[SfmOptions, tyro.conf.arg(name="")] = SfmOptions(),  # noqa: B008 (frozen)
) -> None:
    """Estimate cameras and track points from images or videos, without training a splat.

    Writes `transforms.json` with `sparse_pc.ply` (nerfstudio), `sparse/0` (COLMAP model), `report.json`
    (statistics), `images/` with the registered images, and `masks/` if any registered image has a mask.
    `images/` contains links to the images and copies of the frames of videos. An image that other tools would
    read differently, for example because of its EXIF orientation or color profile, is copied upright and in
    sRGB. If `OUTPUT_DIR/images` is the image folder or inside it, neither images nor masks are written.
    Results are cached in the subfolder `cache/` of the output folder, and reused if images and options are
    the same.

    Args:
        data: Folder of images and videos, a folder whose subfolder `images/` contains them, or a video.
        output_dir: Output folder; created if missing. The command fails instead of replacing a file that
            nope-splat did not write.
        options: Options of structure from motion.
    """
    with writing_to(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    check_output_folder(output_dir)
    folder = find_images(data, options.invert_masks, options.frames, output_dir / "cache")
    for name, reason in folder.skipped.items():
        logger.warning(f"Skipped {name}: {reason}.")
    in_place = uses_original_images(folder, output_dir)
    if not in_place:
        check_image_export(folder, output_dir / "images")
    scene = reconstruction.reconstruct(folder, options=options, cache_dir=output_dir / "cache")
    images, masks, exported = output_dir / "images", output_dir / "masks", scene
    if in_place:
        images, masked = folder.root, False
        _warn_about_masks(scene, folder, output_dir)
    else:
        exported = export_images(scene, folder, images)
        masked = export_masks(scene, folder, masks, exported.image_names)
    write_transforms(exported, images, output_dir / "transforms.json", masks if masked else None)
    write_colmap(exported, output_dir / "sparse" / "0")
    write_report(scene, output_dir / "report.json", folder.skipped)
    Console().print(table("Reconstruction", reconstruction_rows(scene) | {"written to": str(output_dir)}))


def _warn_about_masks(scene: Reconstruction, folder: ImageFolder, output_dir: Path) -> None:
    """Log a warning if registered images have masks, which are not exported because the folders overlap."""
    if any(map(has_mask, compress(images_of(scene, folder), scene.registered))):
        logger.warning(
            f"Masks are not exported, because the output folder {output_dir} overlaps with the photo folder"
            f" {folder.root}; choose another output folder to export them."
        )
