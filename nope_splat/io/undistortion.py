"""Read images and masks, and remove radial distortion."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort
from nope_splat.io.images import ImageFile, read_image, read_mask


def read_undistorted_image(
    image: ImageFile, size: tuple[int, int], camera: Camera
) -> NDArray[np.uint8]:
    """Read an image, scale it, and remove its radial distortion; focal length and principal point are kept.

    Args:
        image: The image.
        size: Width and height of the result in pixels.
        camera: Intrinsics of the image at full resolution.

    Returns:
        Colors, 0 to 255: RGB (H, W, 3) or, for images with transparency, RGBA (H, W, 4). Pixels that lie
        outside the original image repeat its nearest border pixel.
    """
    pixels = read_image(image, size)
    if not any(camera.radial):
        return pixels
    maps = _remap_coordinates(image, size, camera)
    undistorted = cv2.remap(pixels, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return undistorted.astype(np.uint8, copy=False)


def read_undistorted_mask(
    image: ImageFile, size: tuple[int, int], camera: Camera
) -> NDArray[np.bool_] | None:
    """Read the mask of an image, scale it, and remove its radial distortion.

    Args:
        image: The image.
        size: Width and height of the result in pixels.
        camera: Intrinsics of the image at full resolution.

    Returns:
        Mask (H, W), True for pixels that are interpolated only from used pixels inside the original image.
        None if the image has no mask and all pixels lie inside the original image.
    """
    mask = read_mask(image, size)
    if not any(camera.radial):
        return mask
    used = np.ones(size[::-1], bool) if mask is None else mask
    maps = _remap_coordinates(image, size, camera)
    undistorted = cv2.remap(255 * used.astype(np.uint8), *maps, cv2.INTER_LINEAR) == 255
    return None if mask is None and undistorted.all() else undistorted


def _remap_coordinates(
    image: ImageFile, size: tuple[int, int], camera: Camera
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute where each pixel of the undistorted image lies in the distorted image, for `cv2.remap`.

    Args:
        image: The image.
        size: Width and height of both images in pixels.
        camera: Intrinsics of the image at full resolution.

    Returns:
        Column and row in the distorted image, (H, W) each. As in OpenCV, the center of the first pixel is
        (0, 0).
    """
    full = np.array([image.width, image.height])
    scale = np.array(size) / full
    pixels = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in size)), axis=-1)
    center = camera.principal_points(full)
    plane = distort((pixels / scale - center) / camera.focal, camera.radial)
    column, row = np.moveaxis((camera.focal * plane + center) * scale - 0.5, -1, 0).astype(np.float32)
    return column, row
