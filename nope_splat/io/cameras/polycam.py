"""Read cameras from Polycam's raw data: one JSON file per photo.

The files are in `keyframes/corrected_cameras`, or in another folder of `FOLDERS`. The entries t_00 to t_23
are the first three rows of the camera-to-world transform, with OpenGL camera axes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, number, rigid_pose
from nope_splat.io.cameras.entries import CameraEntry, parsing_camera
from nope_splat.io.cameras.lenses import Lens, Size

FOLDERS = (
    "keyframes/corrected_cameras",
    "corrected_cameras",
    "keyframes/cameras",
    "cameras",
    ".",
)
"""Folders that may contain the JSON files, relative to the folder that the user passes, in the order in which
they are searched: corrected cameras first."""
KEY = "t_00"
"""Key that identifies a Polycam JSON file."""


def find_files(folder: Path) -> list[Path]:
    """Find the JSON files in a folder of Polycam's raw data; return an empty list if there are none."""
    for name in FOLDERS:
        files = sorted((folder / name).glob("*.json"))
        if files and KEY in files[0].read_text("utf-8", errors="replace"):
            return files
    return []


def read_files(files: list[Path]) -> Iterator[CameraEntry]:
    """Read the cameras of JSON files.

    Args:
        files: The files, from `find_files`.

    Yields:
        Camera entries; the image names have no extension.
    """
    for file in files:
        with parsing_camera(file.parent, file.stem):
            values = json.loads(file.read_bytes())
            if not isinstance(values, dict):
                raise InvalidCamera("it is not a JSON object")
            rows = [[number(values, f"t_{row}{column}") for column in range(4)] for row in range(3)]
            size = number(values, "width"), number(values, "height")
            focals = number(values, "fx"), number(values, "fy")
            center = number(values, "cx"), number(values, "cy")
            check_intrinsics(size, focals, center)
            pose = rigid_pose(rows) @ OPENCV_FROM_OPENGL
            entry = CameraEntry(file.stem, pose, partial(_lens, focals, center), size)
        yield entry


def _lens(focals: tuple[float, float], center: tuple[float, float], size: Size) -> Lens:
    """Return a pinhole lens; focal lengths and principal point are in pixels, and the size is not used."""
    del size
    return Lens("PINHOLE", focals, center)
