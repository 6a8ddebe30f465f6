"""Read images and masks as another camera would have taken them, by default one without distortion."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import NO_DISTORTION, Camera
from nope_splat.geometry.projection import is_visible
from nope_splat.io.images import ImageFile, read_image, read_mask
from nope_splat.utils.typing import Array

MIN_RAY_DEPTH = float(np.cos(np.radians(88)))
"""Smallest z component of the viewing rays (unit vectors) of used pixels: their angle to the optical axis is
less than 88 degrees. Rasterizers and depth maps describe only what lies in front of the camera."""


def read_undistorted_image(
    image: ImageFile, size: tuple[int, int], camera: Camera, target: Camera | None = None
) -> NDArray[np.uint8]:
    """Read an image, scale it, and resample it as another camera at the same place would have taken it.

    Args:
        image: The image.
        size: Width and height of the result in pixels.
        camera: Intrinsics of the image at full resolution.
        target: Intrinsics of the result at full resolution; None for `camera` without distortion.

    Returns:
        Colors, 0 to 255: RGB (H, W, 3) or, for images with transparency, RGBA (H, W, 4). Pixels that lie
        outside the original image repeat its nearest border pixel.
    """
    pixels, target = read_image(image, size), target or without_distortion(camera)
    if camera == target:
        return pixels
    maps = _remap_coordinates(image, size, camera, target)
    undistorted = cv2.remap(pixels, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return undistorted.astype(np.uint8, copy=False)


def read_undistorted_mask(
    image: ImageFile, size: tuple[int, int], camera: Camera, target: Camera | None = None
) -> NDArray[np.bool_] | None:
    """Read the mask of an image, scale it, and resample it as `read_undistorted_image` resamples the image.

    Args:
        image: The image.
        size: Width and height of the result in pixels.
        camera: Intrinsics of the image at full resolution.
        target: Intrinsics of the result at full resolution; None for `camera` without distortion.

    Returns:
        Mask (H, W), True for pixels that are interpolated only from used pixels inside the original image,
        and whose viewing rays lie in front of the camera (see `MIN_RAY_DEPTH`). None if the image has no mask
        and this holds for all pixels.
    """
    mask, target = read_mask(image, size), target or without_distortion(camera)
    used = np.ones(size[::-1], bool) if mask is None else mask
    if camera != target:
        maps = _remap_coordinates(image, size, camera, target)
        used = cv2.remap(255 * used.astype(np.uint8), *maps, cv2.INTER_LINEAR) == 255
    if target.is_fisheye:
        used = used & (_rays(image, size, target)[..., 2] > MIN_RAY_DEPTH)
    return None if mask is None and used.all() else used


def without_distortion(camera: Camera) -> Camera:
    """Return a camera with the same focal length, principal point and projection, but without distortion.

    Args:
        camera: The camera.
    """
    return replace(camera, distortion=NO_DISTORTION)


def _rays(image: ImageFile, size: tuple[int, int], camera: Camera) -> Array:
    """Compute the viewing rays of the pixels of an image that is scaled to `size`. (H, W, 3)."""
    full = np.array([image.width, image.height])
    pixels = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in size)), axis=-1)
    return camera.unproject(pixels / (np.array(size) / full), full)


def _remap_coordinates(
    image: ImageFile, size: tuple[int, int], camera: Camera, target: Camera
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute where each pixel of the resampled image lies in the original image, for `cv2.remap`.

    Args:
        image: The image.
        size: Width and height of both images in pixels.
        camera: Intrinsics of the original image at full resolution.
        target: Intrinsics of the resampled image at full resolution.

    Returns:
        Column and row in the original image, (H, W) each; far outside for rays that `camera` cannot show. As
        in OpenCV, the center of the first pixel is (0, 0).
    """
    full, rays = np.array([image.width, image.height]), _rays(image, size, target)
    visible = is_visible(rays, camera.is_fisheye)
    pixels = camera.project(np.where(visible[..., None], rays, (0.0, 0.0, 1.0)), full)
    pixels = np.where(visible[..., None], pixels, -full)
    column, row = np.moveaxis(pixels * (np.array(size) / full) - 0.5, -1, 0).astype(np.float32)
    return column, row
