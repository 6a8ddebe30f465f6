"""Names of lens models and intrinsics in COLMAP and nerfstudio."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nope_splat.geometry.camera import Camera

TERM_NAMES = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Names of the distortion coefficients of a `Camera`, in their order. (6,)."""
PERSPECTIVE_MODELS: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": (),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("k1", "k2", "p1", "p2", "k3"),
}
"""COLMAP's perspective models, simplest first, and the names of their distortion coefficients. FULL_OPENCV
has three more coefficients, which are zero."""
FISHEYE_MODELS: dict[str, tuple[str, ...]] = {
    "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
    "THIN_PRISM_FISHEYE": ("k1", "k2", "p1", "p2", "k3", "k4"),
}
"""COLMAP's fisheye models, simplest first, and the names of their distortion coefficients. THIN_PRISM_FISHEYE
has two more coefficients, which are zero."""


def distortion_by_name(camera: Camera) -> dict[str, float]:
    """Return the six distortion coefficients of a camera by name."""
    return dict(zip(TERM_NAMES, camera.distortion, strict=True))


def colmap_lens_model(camera: Camera) -> tuple[str, dict[str, float]]:
    """Find the simplest COLMAP model of a camera.

    Args:
        camera: The camera.

    Returns:
        Name of the model, and its distortion coefficients by name, in COLMAP's order. With a single focal
        length, SIMPLE_PINHOLE and RADIAL have the parameters f, cx, cy and these coefficients; other models
        have fx, fy, cx, cy, these coefficients, and further ones, which are zero.

    Raises:
        ValueError: If no COLMAP model has the coefficients of the camera, which is so for perspective cameras
            with k4.

    Example:
        >>> colmap_lens_model(Camera(focal=500.0, distortion=(0.1, 0.0, 0.0, 0.0, 0.0, 0.0)))
        ('RADIAL', {'k1': 0.1, 'k2': 0.0})
    """
    terms = distortion_by_name(camera)
    nonzero = {name for name, value in terms.items() if value}
    for model, names in (FISHEYE_MODELS if camera.is_fisheye else PERSPECTIVE_MODELS).items():
        if nonzero <= set(names):
            return model, {name: terms[name] for name in names}
    raise ValueError(f"COLMAP has no lens model for the distortion {camera.distortion}")


def nerfstudio_model(is_fisheye: bool) -> str:
    """Return nerfstudio's name of a projection: OPENCV for perspective, OPENCV_FISHEYE for fisheye lenses."""
    return "OPENCV_FISHEYE" if is_fisheye else "OPENCV"


def intrinsics_json(camera: Camera, size: ArrayLike) -> dict[str, float | int | str]:
    """Return the intrinsics of an image as JSON values under nerfstudio's names.

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
    return {"camera_model": nerfstudio_model(camera.is_fisheye), **pinhole, **distortion_by_name(camera)}
