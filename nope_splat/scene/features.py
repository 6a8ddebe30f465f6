"""What every matcher delivers: keypoints per image, verified matches per pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one image."""

    xy: NDArray[np.float64]
    """Pixel coordinates in the full-resolution upright image. (K, 2)."""
    descriptors: NDArray[np.float32]
    """Unit-length descriptors. (K, D)."""
    pixel_size: float = 1.0
    """Side of a pixel of the searched image in full-resolution pixels: the unit of their accuracy."""
    noise: NDArray[np.float64] | None = None
    """Standard deviation of each position, as a multiple of that of the sharpest keypoints; None where all
    are alike. (K,)."""
    image_size: tuple[int, int] | None = None
    """Width and height of the full-resolution image, for a matcher that needs to know."""


@dataclass(frozen=True)
class PairMatches:
    """Matches between two images that agree with one epipolar geometry."""

    first: int
    """Index of the first image; always less than `second`."""
    second: int
    """Index of the second image."""
    indices: NDArray[np.int64]
    """Keypoint indices in the first and the second image. (M, 2)."""
    fundamental: NDArray[np.float64]
    """Fundamental matrix F with x_second^T F x_first = 0, in full-resolution pixels. (3, 3)."""
    homography_ratio: float
    """Share of the matches that one homography explains: near 1 for pure rotation or a plane."""


MatchedPairs = Mapping[tuple[int, int], PairMatches | None]
"""The matches of pairs of images; None for pairs without an epipolar geometry."""


@dataclass(frozen=True)
class PairPointmaps:
    """What a network says of an ordered pair: points of both images in the frame of the first."""

    first: int
    """Index of the image whose camera is the frame (OpenCV axes)."""
    second: int
    """Index of the other image."""
    points: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Points of both, in a unit of the pair's own, NaN where not to be used. (H, W, 3) each."""
    confidence: tuple[NDArray[np.float32], NDArray[np.float32]]
    """How far they are to be trusted, more than one. (H, W) each."""


@dataclass(frozen=True)
class Pointmaps:
    """The pointmaps of pairs, each image's on a grid of its own."""

    pixel_sizes: NDArray[np.float64]
    """Distance between neighbors on each grid, across and down, in full-resolution pixels. (N, 2)."""
    corners: NDArray[np.float64]
    """Upper left corner of each grid, half of that distance before the first place. (N, 2)."""
    pairs: tuple[PairPointmaps, ...]
    """The ordered pairs."""

    def without(self, left_out: NDArray[np.bool_]) -> Pointmaps:
        """Only the pairs that some images have no part in. (N,)."""
        kept = (pair for pair in self.pairs if not left_out[pair.first] and not left_out[pair.second])
        return replace(self, pairs=tuple(kept))
