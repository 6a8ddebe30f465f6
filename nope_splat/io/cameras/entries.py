"""Cameras as read from files, with any lens model.

A camera refers either to the pixels as they are stored in the image file, or to the upright pixels: the image
after the rotation by its EXIF orientation.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nope_splat.io.camera_checks import InvalidCamera, one_line, parsing
from nope_splat.io.cameras.lenses import Lens, Size
from nope_splat.io.cameras.names import file_name
from nope_splat.io.images import UNPRINTABLE
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class CameraEntry:
    """Camera of one image as stored in a camera file."""

    name: str
    """Image name in the file: a path, a file name, or a file name without extension."""
    T_world_camera: Array
    """Camera-to-world transform, OpenCV axes. (4, 4). As in the file, it refers either to the stored image or
    to the upright image (after EXIF rotation), see `is_upright`."""
    lens_for: Callable[[Size], Lens]
    """Function that returns the lens for an image size (width, height) in pixels, since some formats store
    intrinsics relative to the image size."""
    size: Size | None = None
    """Image size (width, height) in pixels according to the file; None if the file does not contain the
    size."""
    default_size: Size | None = None
    """Image size (width, height) in pixels to assume if the image is not found; None if a wrong size would
    change the intrinsics."""
    is_upright: bool = False
    """What the camera is assumed to refer to if the image sizes leave this open: True for the upright image
    (after EXIF rotation), False for the image as it is stored. The sizes leave this open if `size` is None,
    or if the stored and the upright image both have the aspect ratio of `size`."""


def check_name(name: str, others: Container[str]) -> None:
    """Check that an image name is usable, and that no other camera has the same image name.

    Args:
        name: Image name of a camera.
        others: Image names of the cameras read before.

    Raises:
        InvalidCamera: If the name is empty, contains control characters, or is already in `others`.
    """
    if not file_name(name):
        raise InvalidCamera("it has no photo name")
    if UNPRINTABLE.search(name):  # `find_images` skips files with such names
        raise InvalidCamera("its photo name contains control characters")
    if name in others:
        raise InvalidCamera("another camera has the same photo name")


def entries_by_name(path: Path, entries: Iterable[CameraEntry]) -> dict[str, CameraEntry]:
    """Collect entries by name, and check their names.

    Args:
        path: The camera file, for error messages.
        entries: The entries.

    Returns:
        The entries by name.

    Raises:
        NopeSplatError: If a name is empty, contains control characters, or occurs twice.
    """
    named: dict[str, CameraEntry] = {}
    for index, entry in enumerate(entries):
        with parsing_camera(path, entry.name or f"frame {index + 1}"):
            check_name(entry.name, named)
        named[entry.name] = entry
    return named


def parsing_camera(path: Path, name: str) -> AbstractContextManager[None]:
    """Convert exceptions that a damaged camera causes within a `with` block to a `NopeSplatError`.

    Args:
        path: The camera file, for the error message.
        name: Image name of the camera, for the error message.

    Returns:
        The context manager `parsing`, with the start and the end of the error message filled in.
    """
    return parsing(f"the camera of {one_line(name)} in {path} cannot be used", "correct it or remove it")


def numbers(text: str | None, count: int) -> Array:
    """Parse numbers that are separated by spaces.

    Args:
        text: The text.
        count: Expected number of values.

    Returns:
        The values. (count,).

    Raises:
        InvalidCamera: If the text does not contain `count` values, or a value is not a number.
    """
    values = np.array((text or "").split(), dtype=np.float64)
    if len(values) != count:
        raise InvalidCamera(f"{len(values)} instead of {count} numbers")
    return values
