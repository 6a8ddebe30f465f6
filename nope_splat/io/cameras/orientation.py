"""Convert cameras for stored pixels to cameras for upright pixels.

Most programs ignore the EXIF orientation of photos, so their cameras refer to the pixels as they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.distortion import turn_distortion
from nope_splat.io.cameras.lenses import Size
from nope_splat.io.cameras.named_camera import NamedCamera
from nope_splat.io.images import ImageFile
from nope_splat.utils.typing import Array

Key = TypeVar("Key")

UPRIGHT_FROM_STORED = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, -1), (1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, 1), (-1, 0)),
}
"""For each EXIF orientation: matrix that takes pixel coordinates relative to the center of the stored image
to pixel coordinates relative to the center of the upright image. (2, 2)."""
MIRRORED = frozenset({2, 4, 5, 7})
"""EXIF orientations of photos whose stored pixels are mirrored."""
MIRROR_WORLD = np.diag([-1.0, 1.0, 1.0, 1.0])
"""Reflection of the world, which corrects a reconstruction from photos with mirrored pixels. (4, 4)."""


def stored_size(image: ImageFile) -> tuple[int, int]:
    """Return width and height, in pixels, of an image before it is rotated by its EXIF orientation."""
    is_turned = image.exif.orientation >= 5  # by a quarter
    return (image.height, image.width) if is_turned else (image.width, image.height)


def refers_to_stored_pixels(
    image: ImageFile, size: Size | None, is_upright: bool, path: Path, name: str
) -> bool:
    """Determine whether a camera refers to the stored or to the upright pixels of its image.

    Args:
        image: The image.
        size: Image size (width, height) in pixels in the camera file, for example of a scaled copy; None if
            unknown.
        is_upright: Assumption if `size` is None or has the aspect ratio of both the stored and the upright
            image: True for upright pixels, False for stored pixels.
        path: The camera file, for the error message.
        name: Image name in this file, for the error message.

    Returns:
        True for stored pixels, False for upright ones.

    Raises:
        NopeSplatError: If the aspect ratio of `size` differs from those of the stored and of the upright
            image.
    """
    stored, upright = stored_size(image), (image.width, image.height)
    if size is None:
        return not is_upright
    fits_stored, fits_upright = (_has_aspect(size, other) for other in (stored, upright))
    if not fits_stored and not fits_upright:
        raise NopeSplatError(
            "wrong-size",
            f"the camera of {name} in {path} is for {size[0]:g} x {size[1]:g} pixels, but the photo has"
            f" {stored[0]} x {stored[1]}, which is a different aspect ratio; pass the photos from which"
            " the cameras were computed",
        )
    return fits_stored and not (fits_upright and is_upright)


def sizes_imply_upright_pixels(cameras: Sequence[tuple[ImageFile, Size | None]]) -> bool:
    """Check whether the image sizes in a camera file imply that its cameras refer to upright images.

    Args:
        cameras: For each camera, its image, and the image size (width, height) in the camera file; None if
            the file has no size.

    Returns:
        True if at least one size has the aspect ratio of the upright image only, and no size has the aspect
        ratio of the stored image only.
    """
    fits = [
        (_has_aspect(size, (image.width, image.height)), _has_aspect(size, stored_size(image)))
        for image, size in cameras
        if size is not None
    ]
    return (True, False) in fits and (False, True) not in fits


def _has_aspect(size: Size, other: tuple[int, int]) -> bool:
    """Check whether two image sizes have the same aspect ratio, except for rounding sides to whole pixels."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def turn_upright(
    cameras: dict[Key, NamedCamera], images: dict[Key, ImageFile], stored: dict[Key, bool], path: Path
) -> dict[Key, NamedCamera]:
    """Convert the cameras that refer to stored pixels to cameras for upright pixels.

    EXIF orientations may also mirror a photo. There are two cases in which stored pixels are mirrored:

    - If the stored pixels of all photos are mirrored, the reconstructed scene is mirrored, too. The poses are
      corrected by a reflection of the world.
    - If the stored pixels of only some photos are mirrored, no program can have reconstructed the scene from
      the stored pixels. The cameras of these photos are assumed to refer to upright pixels after all. This is
      possible only if the stored and the upright image have the same aspect ratio.

    Args:
        cameras: The cameras.
        images: Image of each camera.
        stored: Whether each camera refers to stored pixels.
        path: The camera file, for the error message.

    Returns:
        The cameras, for upright pixels.

    Raises:
        NopeSplatError: If only some cameras refer to mirrored pixels, and one of them cannot refer to upright
            pixels because of its aspect ratio.
    """
    orientations = {key: images[key].exif.orientation if stored[key] else 1 for key in cameras}
    mirrored = [key for key, orientation in orientations.items() if orientation in MIRRORED]
    if len(mirrored) < len(cameras):
        for key in mirrored:
            image = images[key]
            if not _has_aspect(stored_size(image), (image.width, image.height)):
                raise NopeSplatError(
                    "unreadable-file",
                    f"{path} has cameras for the stored pixels of photos, and only some of these are"
                    f" mirrored, such as {image.name}; save all photos upright, and compute the cameras"
                    " again",
                )
            orientations[key] = 1
        mirrored = []
    return {key: _turned(camera, orientations[key], bool(mirrored)) for key, camera in cameras.items()}


def _turned(camera: NamedCamera, orientation: int, is_world_mirrored: bool) -> NamedCamera:
    """Convert a camera from the stored pixels to the upright pixels of its photo (see `turn_upright`).

    Args:
        camera: The camera.
        orientation: EXIF orientation of the photo; 1 if the camera already refers to upright pixels.
        is_world_mirrored: Whether the reconstructed scene is mirrored.
    """
    turn: Array = np.array(UPRIGHT_FROM_STORED[orientation], dtype=np.float64)
    T_stored_upright = np.eye(4)
    T_stored_upright[:2, :2] = turn.T
    pose = camera.T_world_camera @ T_stored_upright
    x, y = (turn @ camera.offset).tolist()
    return replace(
        camera,
        T_world_camera=MIRROR_WORLD @ pose if is_world_mirrored else pose,
        offset=(x, y),
        distortion=tuple(turn_distortion(np.asarray(camera.distortion), turn).tolist()),
    )
