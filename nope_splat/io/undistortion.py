"""Images as a camera without distortion would have taken them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.geometry.distortion import distort
from nope_splat.io.images import ImageFile, read_image, read_mask


def read_undistorted_image(
    image: ImageFile, size: tuple[int, int], camera: SharedPinhole
) -> NDArray[np.uint8]:
    """Read an image and take the distortion out; focal length, principal point and size stay.

    Args:
        image: The image.
        size: Width and height to scale to.
        camera: The camera that took it.

    Returns:
        Colors as of `read_image`, those of the border where the image does not reach. (H, W, 3 or 4).
    """
    pixels = read_image(image, size)
    if not any(camera.radial):
        return pixels
    sources = _sources(image, size, camera)
    undistorted = cv2.remap(pixels, *sources, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return undistorted.astype(np.uint8, copy=False)


def read_undistorted_mask(
    image: ImageFile, size: tuple[int, int], camera: SharedPinhole
) -> NDArray[np.bool_] | None:
    """Read which pixels of an undistorted image are used: those that show used ones.

    Args:
        image: The image.
        size: Width and height to scale to.
        camera: The camera that took it.

    Returns:
        True where it is used; None if it is used everywhere. (H, W).
    """
    used = read_mask(image, size)
    if not any(camera.radial):
        return used
    everywhere = np.ones(size[::-1], bool) if used is None else used
    opacity = 255 * everywhere.astype(np.uint8)
    share = cv2.remap(opacity, *_sources(image, size, camera), cv2.INTER_LINEAR)
    reached = share == 255
    return None if used is None and reached.all() else reached


def _sources(
    image: ImageFile, size: tuple[int, int], camera: SharedPinhole
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row that each pixel comes from; OpenCV counts from the first pixel's center. (H, W) each."""
    full = np.array([image.width, image.height])
    scale = np.array(size) / full
    pixels = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in size)), axis=-1)
    center = camera.principal_points(full)
    plane = distort((pixels / scale - center) / camera.focal, camera.radial)
    column, row = np.moveaxis((camera.focal * plane + center) * scale - 0.5, -1, 0).astype(np.float32)
    return column, row
