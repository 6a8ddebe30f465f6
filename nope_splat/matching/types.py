"""What every matcher delivers: keypoints per photograph, verified matches per pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one photograph."""

    xy: NDArray[np.float64]
    """Pixel coordinates in the full-resolution upright photograph. (K, 2)."""
    descriptors: NDArray[np.float32]
    """Unit-length descriptors. (K, D)."""
    pixel_size: float = 1.0
    """Side of a pixel of the searched image in full-resolution pixels: the unit of their accuracy."""
    noise: NDArray[np.float64] | None = None
    """Standard deviation of each position, as a multiple of that of the sharpest keypoints; None where all
    are alike. (K,)."""
    image_size: tuple[int, int] | None = None
    """Width and height of the full-resolution photograph, for a matcher that needs to know."""


@dataclass(frozen=True)
class PairMatches:
    """Matches between two photographs that agree with one epipolar geometry."""

    first: int
    """Index of the first photograph; always less than `second`."""
    second: int
    """Index of the second photograph."""
    indices: NDArray[np.int64]
    """Keypoint indices in the first and the second photograph. (M, 2)."""
    fundamental: NDArray[np.float64]
    """Fundamental matrix F with x_second^T F x_first = 0, in full-resolution pixels. (3, 3)."""
    homography_ratio: float
    """Share of the matches that one homography explains: near 1 for pure rotation or a plane."""
