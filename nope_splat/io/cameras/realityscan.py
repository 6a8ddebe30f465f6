"""Read CSV files "Internal/External camera parameters" written by RealityScan or RealityCapture.

Columns are `#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2`: the camera center; rotation angles
in degrees; the focal length in millimeters of a sensor whose longer side is 36 mm; the principal point
relative to the image center, in units of the longer image side; radial distortion, the coefficients of r^2 to
r^8; and tangential distortion, OpenCV's p1 and p2. With all angles zero, the camera looks down (-z) and the
top of the image is north (+y).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.geometry.rigid import rigid
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, number, rigid_pose
from nope_splat.io.cameras.entries import CameraEntry, parsing_camera
from nope_splat.io.cameras.lenses import Lens, Size
from nope_splat.utils.typing import Array

FILM_WIDTH = 36.0
"""Longer side, in millimeters, of the sensor for which the file gives focal lengths."""
DEFAULT_SIZE = (4000.0, 3000.0)
"""Image size (width, height) in pixels to assume if the photos are not found. The size affects only lenses
that have to be fitted, because they have more distortion coefficients than k1, k2, t1 and t2."""
DELIMITERS = ",;\t"


def is_header(line: str) -> bool:
    """Check whether a line is the header of a camera table, with columns for rotation angles."""
    return {"name", "x", "y", "heading", "pitch", "roll"} <= set(_columns(line))


def read_table(path: Path, text: str) -> Iterator[CameraEntry]:
    """Read the cameras of a table.

    Args:
        path: The file, for error messages.
        text: Content of the file, with a header line.

    Yields:
        Camera entries, whose `size` is None.
    """
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if is_header(line))
    columns = _columns(lines[start])
    for index, row in enumerate(_rows(lines[start + 1 :], _delimiter(lines[start]))):
        if not row or not "".join(row).strip() or row[0].startswith("#"):
            continue
        values = dict(zip(columns, (value.strip() for value in row), strict=False))
        name = values.get("name", "")
        with parsing_camera(path, name or f"line {start + index + 2}"):
            if "f" not in values:
                raise InvalidCamera("it has no focal length; export Internal/External camera parameters")
            entry = CameraEntry(name, _pose(values), partial(_lens, values), default_size=DEFAULT_SIZE)
        yield entry


def _rows(lines: list[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the values of each row of a CSV file, as text."""
    try:
        yield from csv.reader(lines, delimiter=delimiter)
    except csv.Error as error:
        raise InvalidCamera(str(error)) from error


def _delimiter(header: str) -> str:
    """Return the character that separates the columns of a CSV file: comma, semicolon or tab."""
    return max(DELIMITERS, key=header.count)


def _columns(header: str) -> list[str]:
    """Return the names of the columns, in lower case."""
    names = (name.strip().lower() for name in header.lstrip("\ufeff# ").split(_delimiter(header)))
    return ["alt" if name == "z" else name for name in names]


def _pose(values: Mapping[str, str]) -> Array:
    """Compute the camera-to-world transform (OpenCV axes) from camera center and angles. (4, 4)."""
    heading, pitch, roll = (number(values, key) for key in ("heading", "pitch", "roll"))
    rotation = Rotation.from_euler("ZXY", [-heading, pitch, roll], degrees=True).as_matrix()
    center = np.array([number(values, key) for key in ("x", "y", "alt")])
    return rigid_pose(rigid(rotation, center)) @ OPENCV_FROM_OPENGL


def _lens(values: Mapping[str, str], size: Size) -> Lens:
    """Return the lens in a row of the table, for an image size (width, height) in pixels."""
    unit = max(size)
    focal = number(values, "f") * unit / FILM_WIDTH
    offset = number(values, "px", 0.0), number(values, "py", 0.0)
    cx, cy = (side / 2 + unit * shift for side, shift in zip(size, offset, strict=True))
    radial = tuple(number(values, f"k{index}", 0.0) for index in range(1, 5))
    tangential = number(values, "t1", 0.0), number(values, "t2", 0.0)
    check_intrinsics(size, (focal,), (cx, cy, *radial, *tangential))
    return Lens("Brown", (focal, focal), (cx, cy), radial, tangential=tangential)
