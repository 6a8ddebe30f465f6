"""Intrinsics as JSON values, under the names that nerfstudio's `transforms.json` uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nope_splat.geometry.camera import Camera

TERM_NAMES = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Names of the distortion coefficients of a `Camera`, in their order. (6,)."""


def nerfstudio_model(camera: Camera) -> str:
    """Return nerfstudio's name of a camera's projection: OPENCV or, for fisheye lenses, OPENCV_FISHEYE."""
    return "OPENCV_FISHEYE" if camera.is_fisheye else "OPENCV"


def intrinsics_json(camera: Camera, size: ArrayLike) -> dict[str, float | int | str]:
    """Return the intrinsics of an image as JSON values.

    Args:
        camera: The camera.
        size: Width and height of the image in pixels. (2,).

    Returns:
        `camera_model`, image size, focal lengths and principal point in pixels, and the six distortion
        coefficients, by name.

    Example:
        >>> intrinsics_json(Camera(focal=500.0), (640, 480))["cx"]
        320.0
    """
    width, height = (int(side) for side in np.asarray(size))
    cx, cy = camera.principal_points(np.array([width, height])).tolist()
    pinhole = {"w": width, "h": height, "fl_x": camera.focal, "fl_y": camera.focal, "cx": cx, "cy": cy}
    terms = dict(zip(TERM_NAMES, camera.distortion, strict=True))
    return {"camera_model": nerfstudio_model(camera), **pinhole, **terms}
