"""Read a `reconstruction.json` written by OpenSfM or OpenDroneMap.

Poses are world-to-camera transforms, with rotations stored as rotation vectors. Focal length and principal
point are divided by the longer image side; the principal point is relative to the image center.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nope_splat.geometry.rigid import invert, rigid, rotation_exp
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, number, rigid_pose
from nope_splat.io.cameras.entries import CameraEntry, parsing_camera
from nope_splat.io.cameras.lenses import Lens, Projection, Size, UnsuitableLens, panorama_error

logger = logging.getLogger(__name__)

PROJECTIONS: dict[str, tuple[Projection, int]] = {
    "perspective": ("perspective", 2),
    "simple_radial": ("perspective", 1),
    "radial": ("perspective", 2),
    "brown": ("perspective", 3),
    "fisheye": ("equidistant", 2),
    "fisheye_opencv": ("equidistant", 4),
    "fisheye62": ("equidistant", 6),
}
"""Projection and number of radial coefficients by `projection_type`."""
PANORAMAS = frozenset({"spherical", "equirectangular"})
"""Values of `projection_type` for panoramas of the whole sphere."""


def largest_reconstruction(path: Path, content: list[Any] | dict[str, Any]) -> dict[str, Any]:
    """Return the reconstruction with the most images in a file, and log if there are several reconstructions.

    Args:
        path: The file, for the message.
        content: Content of the file: one reconstruction, or a list of reconstructions.

    Returns:
        The reconstruction, with entries `cameras` and `shots`.

    Raises:
        InvalidCamera: If there is no reconstruction.
    """
    parts = content if isinstance(content, list) else [content]
    if not parts or not all(isinstance(part, dict) and isinstance(part.get("shots"), dict) for part in parts):
        raise InvalidCamera("it is neither a JSON object with frames nor a list of JSON objects with shots")
    largest = max(parts, key=lambda part: len(part["shots"]))
    if len(parts) > 1:
        logger.info(
            f"{path} has {len(parts)} reconstructions; the one with the most photos"
            f" ({len(largest['shots'])}) is used."
        )
    return largest


def read_shots(path: Path, reconstruction: dict[str, Any]) -> Iterator[CameraEntry]:
    """Convert the shots of a reconstruction to camera entries.

    Args:
        path: The file, for error messages.
        reconstruction: A reconstruction, from `largest_reconstruction`.

    Yields:
        Camera entries.
    """
    for name, shot in reconstruction["shots"].items():
        with parsing_camera(path, name):
            camera = reconstruction["cameras"][shot["camera"]]
            size = number(camera, "width"), number(camera, "height")
            rotation = rotation_exp(_vector(shot, "rotation"))
            pose = invert(rigid_pose(rigid(rotation, _vector(shot, "translation"))))
            entry = CameraEntry(name, pose, partial(_lens, camera), size)
        yield entry


def _vector(shot: Mapping[str, Any], key: str) -> np.ndarray:
    """Read three numbers from a JSON object. (3,)."""
    values = shot[key]
    if not isinstance(values, list) or len(values) != 3:
        raise InvalidCamera(f"its {key} is not a list of three numbers")
    return np.array([number({key: value}, key) for value in values])


def _lens(camera: Mapping[str, Any], size: Size) -> Lens:
    """Read the lens of a camera for an image size (width, height) in pixels."""
    kind = str(camera.get("projection_type", "perspective"))
    if kind in PANORAMAS:
        raise panorama_error(kind)
    if kind not in PROJECTIONS:
        raise UnsuitableLens(kind, "only perspective, Brown and fisheye models are supported")
    projection, count = PROJECTIONS[kind]
    unit = max(size)
    if "focal_x" in camera:
        focals = number(camera, "focal_x") * unit, number(camera, "focal_y") * unit
    else:
        focals = number(camera, "focal") * unit, number(camera, "focal") * unit
    center = size[0] / 2 + number(camera, "c_x", 0.0) * unit, size[1] / 2 + number(camera, "c_y", 0.0) * unit
    radial = tuple(number(camera, f"k{index}", 0.0) for index in range(1, count + 1))
    has_tangential = kind in ("brown", "fisheye62")
    tangential = (number(camera, "p1", 0.0), number(camera, "p2", 0.0)) if has_tangential else (0.0, 0.0)
    check_intrinsics(size, focals, (*center, *radial, *tangential))
    return Lens(kind, focals, center, radial, tangential=tangential, projection=projection)
