"""Read mask files: used pixels, orientation and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.decoding import horizontal_strips, read_alpha, reject_floating_point, turn_upright
from nope_splat.io.exif import read_exif

LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP", "HEIF", "AVIF", "JPEG2000"})
"""Pillow formats whose compression may be lossy, so that black pixels next to white ones become dark gray."""
HALF = 127
"""Half of the level of white (255). In masks that were compressed lossily or have soft edges, only pixels
above this level are used. The same threshold applies to opacity (0 to 255)."""
MAX_LABELS = 16
"""Maximum number of different levels in a label mask, which has one level per object. A mask with more levels
has soft edges, or was saved in a lossy format before."""
MAX_RINGING = 16
"""Maximum change of black and white areas that is attributed to lossy compression, in levels of 0 to 255."""
MAX_ASPECT_DIFFERENCE = 0.02
"""Maximum relative difference between the aspect ratios of a mask and its photo. Small differences result
from rounding the size of a scaled mask."""


def turn_mask_upright(mask: Image.Image, photo_size: tuple[int, int], photo_orientation: int) -> None:
    """Decode a mask, and rotate or mirror it in place according to its EXIF orientation.

    A mask may also have been drawn on the stored pixels of a photo with an EXIF orientation. This is assumed
    if the mask has no EXIF orientation, and fits the size of the upright photo better after a quarter turn.
    The EXIF orientation of the photo is then applied to the mask.

    Args:
        mask: The opened mask.
        photo_size: Width and height of the upright photo in pixels.
        photo_orientation: EXIF orientation of the photo, 1 to 8.
    """
    mask.load()
    if photo_orientation >= 5 and read_exif(mask).orientation == 1:
        turned = (mask.height, mask.width)
        if _fit(turned, photo_size) > _fit(mask.size, photo_size):
            mask.getexif()[ExifTags.Base.Orientation] = photo_orientation
    turn_upright(mask)


def require_mask_fits(file: Path, size: tuple[int, int], photo_size: tuple[int, int]) -> None:
    """Raise an error if a mask has a different aspect ratio from its photo.

    Args:
        file: The mask file.
        size: Width and height of the mask in pixels, after rotation.
        photo_size: Width and height of the photo in pixels.

    Raises:
        NopeSplatError: If the aspect ratios differ by more than `MAX_ASPECT_DIFFERENCE`.
    """
    if _fit(size, photo_size) == 0:
        raise NopeSplatError(
            "wrong-size",
            f"the mask {file} is {size[0]} x {size[1]} pixels, but its photo is {photo_size[0]} x"
            f" {photo_size[1]}; save the mask with the size or aspect ratio of the photo",
        )


def used_pixels(mask: Image.Image) -> NDArray[np.bool_]:
    """Return which pixels of an image are used according to its mask.

    If the opacity of the mask varies, a pixel is used if it is at least half opaque. Otherwise, the level of
    its brightest channel decides:

    - In lossy formats, and in masks that have soft edges or were saved in a lossy format before (see
      `_is_soft`), pixels with levels above half of white (see `HALF`) are used.
    - In other masks, all pixels that are not black are used, since their levels may be object labels.

    Args:
        mask: The mask, after `turn_mask_upright`.

    Returns:
        True for used pixels. (H, W).

    Raises:
        ValueError: If the mask has floating-point values.
    """
    reject_floating_point(mask)
    is_deep = mask.mode.startswith("I")
    if mask.has_transparency_data and not is_deep:
        alpha = read_alpha(mask)
        if alpha.min() != alpha.max():
            return alpha > HALF
    levels = np.empty((mask.height, mask.width), np.int32 if is_deep else np.uint8)
    for rows, strip in horizontal_strips(mask):
        levels[rows] = np.asarray(strip) if is_deep else np.asarray(strip.convert("RGB")).max(axis=2)
    half = 65535 // 2 if is_deep else HALF
    if mask.format in LOSSY_FORMATS or _is_soft(levels, half):
        return levels > half
    return levels != 0


def scale_mask(used: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Scale a mask.

    Args:
        used: True for used pixels. (h, w).
        size: Width and height of the result in pixels.

    Returns:
        True for used pixels. (H, W). If the mask is scaled down, a pixel is used if all mask pixels in its
        area are used; otherwise, if the nearest mask pixel is used.
    """
    if size == (used.shape[1], used.shape[0]):
        return used
    larger = size[0] > used.shape[1] or size[1] > used.shape[0]
    method = cv2.INTER_NEAREST_EXACT if larger else cv2.INTER_AREA
    return cv2.resize(255 * used.astype(np.uint8), size, interpolation=method) == 255


def _is_soft(levels: NDArray[Any], half: int) -> bool:
    """Check whether a lossless mask has soft edges, or was saved in a lossy format before.

    Such a mask has levels above half of white, and at least one of these properties:

    - It has more than `MAX_LABELS` different levels.
    - All its levels are near black or near white (within `MAX_RINGING`). Some of them are near black but not
      black, and some are near white but not white.

    Args:
        levels: Levels of the mask. (H, W).
        half: Half of white: 127 for levels of 8 bits, 32767 for 16 bits.
    """
    if levels.max() <= half or levels.min() < 0 or levels.max() > 65535:
        return False
    found = np.zeros(65536, bool)
    for row in levels:
        found[row] = True
    white, margin = 2 * half + 1, MAX_RINGING * (2 * half + 1) // 255
    changes_black_and_white = (
        found[1 : margin + 1].any()
        and found[white - margin : white].any()
        and not found[margin + 1 : white - margin].any()
    )
    return bool(np.count_nonzero(found) > MAX_LABELS or changes_black_and_white)


def _fit(size: tuple[int, int], photo_size: tuple[int, int]) -> int:
    """Rate how well a mask fits its photo: 2 for equal sizes, 1 for equal aspect ratios, else 0."""
    if size == photo_size:
        return 2
    ratio = size[0] * photo_size[1] / (size[1] * photo_size[0])
    return int(abs(ratio - 1) <= MAX_ASPECT_DIFFERENCE)
