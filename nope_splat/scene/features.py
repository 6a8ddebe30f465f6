"""Outputs of matching: keypoints of images, verified matches and pointmaps of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one image."""

    xy: NDArray[np.floating]
    """Pixel coordinates in the full-resolution upright image. (K, 2)."""
    descriptors: NDArray[np.float32]
    """Unit-length descriptors. (K, D)."""
    pixel_size: float = 1.0
    """Side of a pixel of the searched image, in full-resolution pixels; positions are accurate in this
    unit."""
    noise: NDArray[np.floating] | None = None
    """Standard deviation of each position, relative to that of the sharpest keypoints; None if all are
    equally accurate. (K,)."""
    image_size: tuple[int, int] | None = None
    """Width and height of the full-resolution image; None if they are not needed anymore."""

    def noise_or_ones(self) -> NDArray[np.floating]:
        """Return the relative noise of each keypoint, one if all are equally accurate. (K,)."""
        return np.ones(len(self.xy)) if self.noise is None else self.noise


@dataclass(frozen=True)
class PairMatches:
    """Verified matches of a pair of images, with their epipolar geometry."""

    first: int
    """Index of the first image, always smaller than `second`."""
    second: int
    """Index of the second image."""
    indices: NDArray[np.int64]
    """Keypoint indices in the first and the second image. (M, 2)."""
    fundamental: NDArray[np.floating]
    """Fundamental matrix F with x_second^T F x_first = 0, in full-resolution pixels. (3, 3)."""
    homography_ratio: float
    """Fraction of the matches that are inliers of one homography: near 1 for pure rotation or a plane."""
    stationary: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Matches that stand at the same pixel and contradict the others; they are not in `indices`. (S, 2)."""
    num_second: int = 0
    """Number of other matches that agree with a second epipolar geometry; 0 if there is none."""


MatchedPairs = Mapping[tuple[int, int], PairMatches | None]
"""Verified matches by pair of image indices; None for pairs without an epipolar geometry."""


@dataclass(frozen=True)
class PairPointmaps:
    """Pointmaps of an ordered pair: 3D points of both images in the camera frame of the first."""

    first: int
    """Index of the image whose camera is the frame (OpenCV axes)."""
    second: int
    """Index of the other image."""
    points: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Points of the first and of the second image, in an arbitrary unit; NaN if invalid. (H, W, 3) each."""
    confidence: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Confidence of the points, larger than one. (H, W) each."""


@dataclass(frozen=True)
class Pointmaps:
    """Pointmaps of ordered pairs, on one regular grid per image."""

    pixel_sizes: NDArray[np.floating]
    """Spacing of each image's grid in x and y, in full-resolution pixels. (N, 2)."""
    corners: NDArray[np.floating]
    """Upper left corner of each grid, half a spacing before the first point, in full-resolution pixels. (N,
    2)."""
    pairs: tuple[PairPointmaps, ...]
    """The ordered pairs."""

    def without(self, excluded: NDArray[np.bool_]) -> Pointmaps:
        """Remove the pairs that contain an excluded image.

        Args:
            excluded: Whether to exclude each image. (N,).
        """
        kept = (pair for pair in self.pairs if not excluded[pair.first] and not excluded[pair.second])
        return replace(self, pairs=tuple(kept))
