"""Procedural textures for the ray caster and for overlays on images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""RGB image with values from 0 to 255. (height, width, 3)."""

CELLS = (4, 10, 30, 90)
"""Default cell sizes of the octaves of `noise_texture`, in texels."""
WEIGHTS = (0.3, 0.3, 0.25, 0.15)


def noise_texture(
    seed: int,
    size: tuple[int, int] = (512, 512),
    cells: Sequence[int] = CELLS,
    contrast: float = 1.0,
    tint: tuple[int, int, int] | None = None,
) -> Image:
    """Create a random texture with detail at several scales.

    Textures of different seeds do not resemble each other.

    Args:
        seed: Random seed.
        size: Height and width of the texture in texels.
        cells: Cell size of each octave in texels, at most four.
        contrast: Factor on the deviation from gray; larger values give more contrast.
        tint: RGB color, 0 to 255, that is blended with the texture; None for no tint.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    texture = np.zeros((height, width, 3))
    for cell, weight in zip(cells, WEIGHTS, strict=False):
        coarse = rng.uniform(0, 255, (max(height // cell, 2), max(width // cell, 2), 3))
        texture += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    texture = 128 + 1.6 * contrast * (texture - 128)
    if tint is not None:
        texture = 0.7 * texture + 0.3 * np.array(tint)
    return to_image(texture)


def window_texture(seed: int, side: int = 64) -> Image:
    """Create the texture of one window of a facade: frame, panes and sill in a brick wall.

    Args:
        seed: Random seed of the bricks.
        side: Height and width of the texture in texels.
    """
    bricks = noise_texture(seed, (side, side), (2, 4, 8, 16))
    texture = to_image(0.6 * np.full((side, side, 3), 170.0) + 0.4 * bricks)
    left, right, top, bottom = side // 4, 3 * side // 4, side // 5, 4 * side // 5
    frame = (230, 230, 225)
    cv2.rectangle(texture, (left, top), (right, bottom), (60, 70, 90), -1)
    cv2.rectangle(texture, (left, top), (right, bottom), frame, 2)
    cv2.line(texture, (side // 2, top), (side // 2, bottom), frame, 2)
    cv2.line(texture, (left, side // 2), (right, side // 2), frame, 2)
    cv2.rectangle(texture, (side // 5, bottom), (bottom, 5 * side // 6), (120, 60, 50), -1)
    cv2.circle(texture, (side // 3, side // 3), side // 16, (200, 190, 90), -1)
    return texture


def plain_texture(gray: int = 140) -> Image:
    """Create a gray texture without detail.

    Args:
        gray: Value of all channels, 0 to 255.
    """
    return np.full((64, 64, 3), gray, np.uint8)


def repeat(texture: Image, rows: int, columns: int) -> Image:
    """Repeat a texture in a grid.

    Args:
        texture: The texture to repeat.
        rows: Number of copies from top to bottom.
        columns: Number of copies from left to right.
    """
    return np.tile(texture, (rows, columns, 1))


def to_image(values: NDArray[np.floating]) -> Image:
    """Clip values to [0, 255] and truncate them to integers."""
    return np.clip(values, 0, 255).astype(np.uint8)
