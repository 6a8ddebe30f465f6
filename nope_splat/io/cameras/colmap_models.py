"""Find COLMAP models in folders, and read their cameras."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nope_splat.geometry.rigid import invert
from nope_splat.io.camera_checks import check_intrinsics, rigid_pose
from nope_splat.io.cameras.colmap_lenses import MODELS, colmap_lens
from nope_splat.io.cameras.entries import CameraEntry, parsing_camera
from nope_splat.io.cameras.lenses import Lens, Size
from nope_splat.io.colmap import ColmapCamera, ColmapImage, read_cameras

logger = logging.getLogger(__name__)

PARENTS = (".", "sparse", "colmap/sparse")
"""Folders that may contain a COLMAP model, or models in numbered subfolders; relative to the folder that the
user passes."""

Model = tuple[dict[int, ColmapCamera], dict[int, ColmapImage]]


def find_models(folder: Path) -> list[Path]:
    """Find the COLMAP models of a folder.

    Args:
        folder: Folder with a model, or with models in `sparse`, `sparse/0`, `sparse/1` and so on.

    Returns:
        Folders that contain `cameras.bin` or `cameras.txt`; more than one only for numbered subfolders. Empty
        if there is no model.
    """
    for parent in (folder / name for name in PARENTS):
        if _is_model(parent):
            return [parent]
        numbered = [path for path in parent.glob("*") if path.name.isdecimal() and _is_model(path)]
        if numbered:
            return sorted(numbered, key=lambda path: int(path.name))
    return []


def _is_model(folder: Path) -> bool:
    """Check whether a folder contains the cameras of a COLMAP model."""
    return any((folder / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt"))


def read_largest_model(folders: list[Path]) -> tuple[Path, Model]:
    """Read the COLMAP model with the most images, and log this choice if there are several models.

    Args:
        folders: Folders of the models.

    Returns:
        Folder and content of the model.

    Raises:
        NopeSplatError: If a model is damaged.
    """
    models = [(folder, read_cameras(folder)) for folder in folders]
    largest = max(models, key=lambda model: len(model[1][1]))
    if len(models) > 1:
        logger.info(
            f"{largest[0].parent} has {len(models)} COLMAP models; {largest[0].name} is used, which has the"
            f" most photos ({len(largest[1][1])})."
        )
    return largest


def model_entries(path: Path, model: Model) -> Iterator[CameraEntry]:
    """Convert a COLMAP model to camera entries.

    Args:
        path: File or folder that the user passed, for error messages.
        model: Cameras and images of the model.

    Yields:
        Camera entries.
    """
    cameras, images = model
    for image in images.values():
        with parsing_camera(path, image.name):
            camera = cameras[image.camera_id]
            size = camera.width, camera.height
            check_intrinsics(size, camera.focals if camera.model in MODELS else (), camera.params)
            pose = invert(rigid_pose(image.T_camera_world))
            entry = CameraEntry(image.name, pose, partial(_lens, camera), size)
        yield entry


def _lens(camera: ColmapCamera, size: Size) -> Lens:
    """Return the lens of a COLMAP camera; the image size is not used."""
    del size
    return colmap_lens(camera.model, camera.params)
