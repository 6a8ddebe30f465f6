"""Lenses of the demo scene: the viewing rays of pixels, and the true intrinsics as JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.lens_names import intrinsics_json
from nope_splat.utils.typing import Array, Mask

Projection = Literal["perspective", "fisheye", "equirectangular"]
"""Projection of a lens: perspective, equidistant fisheye, or the whole sphere as an equirectangular
panorama."""
MAX_ANGLE = {"perspective": 89.0, "fisheye": 95.0, "equirectangular": 180.0}
"""Largest angle, in degrees, between the optical axis and the rays that a lens shows, by projection. Pixels
with larger angles are black. Widespread fisheye lenses show 95 degrees: the image circle of a field of view
of 190 degrees."""
MAX_SHIFT = 1e-6
"""Pixels whose ray is projected farther from the pixel than this are black, because the distortion never
reaches them; in units of the focal length."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Rays:
    """Viewing rays of the pixels of an image, row by row."""

    directions: Array
    """Unit vectors in camera coordinates, OpenCV axes. (N, 3)."""
    is_shown: Mask
    """Whether the lens shows each ray. (N,)."""
    spacing: float
    """Angle between neighboring rays in the image center, in radians."""


def make_camera(projection: Projection, distortion: tuple[float, ...], degrees: float, size: Size) -> Camera:
    """Build the camera with a given field of view.

    Args:
        projection: Projection of the lens, except "equirectangular".
        distortion: Distortion coefficients k1, k2, k3, k4, p1 and p2 (see `Camera`). (6,).
        degrees: Field of view along the longer side of the images; for perspective lenses, before distortion.
        size: Width and height of the images in pixels.

    Returns:
        The camera, with the principal point in the image center.

    Raises:
        NopeSplatError: If the lens cannot have this field of view.
    """
    limit = 2 * MAX_ANGLE[projection]
    angle, is_fisheye = np.radians(degrees) / 2, projection == "fisheye"
    if not 0 < degrees <= limit:
        raise NopeSplatError(
            "invalid-option",
            f"the field of view is {degrees:g} degrees, but must be greater than 0 and at most {limit:g} for"
            f" {projection} photos",
        )
    if not is_fisheye:
        return Camera(max(size) / 2 / float(np.tan(angle)), distortion=distortion)
    radius = float(distort(np.array([angle, 0.0]), (*distortion[:4], 0.0, 0.0))[0])
    camera = Camera(max(size) / 2 / radius if radius > 0 else 1.0, distortion=distortion, is_fisheye=True)
    if abs(camera.field_of_view(np.array(size)) - degrees) > 1e-6:
        raise NopeSplatError(
            "invalid-option",
            f"a fisheye lens with the distortion {list(distortion)} does not show {degrees:g} degrees; choose"
            " smaller coefficients or a smaller field of view",
        )
    return camera


def camera_rays(camera: Camera, size: Size, density: int = 1) -> Rays:
    """Compute `density` x `density` viewing rays per pixel of a camera.

    Args:
        camera: Intrinsics of the images.
        size: Width and height of the images in pixels.
        density: Number of rays per pixel along each image axis.
    """
    xy = _grid(size, density)
    rays = camera.unproject(xy, np.array(size))
    directions = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    shift = np.linalg.norm(camera.project(rays, np.array(size)) - xy, axis=1)
    limit = np.cos(np.radians(MAX_ANGLE["fisheye" if camera.is_fisheye else "perspective"]))
    is_shown = (directions[:, 2] >= limit) & (shift < MAX_SHIFT * camera.focal)
    return Rays(directions, is_shown, 1.0 / (camera.focal * density))


def panorama_rays(size: Size, density: int = 1) -> Rays:
    """Compute `density` x `density` viewing rays per pixel of an equirectangular panorama.

    As in COLMAP, the optical axis (z) is in the image center, the x axis (right) three quarters from the left
    border, and the y axis (down) at the lower border.

    Args:
        size: Width and height of the panorama in pixels; the width is twice the height.
        density: Number of rays per pixel along each image axis.
    """
    across, along = (_grid(size, density) / size).T
    longitude, latitude = 2 * np.pi * (across - 0.5), np.pi * (along - 0.5)
    horizontal = np.cos(latitude)
    directions = np.stack(
        [horizontal * np.sin(longitude), np.sin(latitude), horizontal * np.cos(longitude)], axis=-1
    )
    return Rays(directions, np.ones(len(directions), bool), np.pi / (size[1] * density))


def lens_json(camera: Camera | None, size: Size) -> dict[str, float | int | str]:
    """Return the true intrinsics of the images as JSON values by name, in the words of nerfstudio.

    Args:
        camera: The camera; None for equirectangular panoramas.
        size: Width and height of the images in pixels.
    """
    if camera is not None:
        return intrinsics_json(camera, size)
    return {"camera_model": "EQUIRECTANGULAR", "w": size[0], "h": size[1]}


def _grid(size: Size, density: int) -> Array:
    """Compute the pixel coordinates of `density` x `density` points per pixel, row by row. (N, 2)."""
    x, y = ((np.arange(side * density) + 0.5) / density for side in size)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
