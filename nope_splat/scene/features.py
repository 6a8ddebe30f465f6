"""Results of matching: keypoints of images, verified matches and pointmaps of image pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.division import DivisionLens


@dataclass(frozen=True)
class MaskEffect:
    """Effect of an image's mask on the keypoints: numbers of keypoints that the mask keeps and hides."""

    num_used: int
    """Number of keypoints in the used area of the mask, before the strongest of them were selected."""
    num_hidden: int
    """Number of keypoints in the hidden area of the mask."""
    used_area: float
    """Area of the image that the mask leaves in use, as a fraction of the image area."""


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one image."""

    xy: NDArray[np.floating]
    """Pixel coordinates (x, y) in the full-resolution upright image. (K, 2)."""
    descriptors: NDArray[np.float32]
    """Descriptors, normalized to unit length. (K, D)."""
    pixel_size: float = 1.0
    """Factor by which the image was downscaled to detect keypoints: full-resolution pixels per pixel of the
    downscaled image. Keypoint positions are accurate to about one pixel of the downscaled image."""
    noise: NDArray[np.floating] | None = None
    """Standard deviation of each position, relative to the most precise keypoints, which have the value 1.
    (K,). None if all keypoints are equally precise."""
    image_size: tuple[int, int] | None = None
    """Width and height of the full-resolution image in pixels; None if unknown."""
    mask_effect: MaskEffect | None = None
    """Numbers of keypoints that the mask of the image keeps and hides; None without a mask or if unknown."""
    division: float = 0.0
    """Coefficient of the lens in the division model (see `geometry.division`); 0 except for wide-angle
    lenses."""

    @property
    def division_lens(self) -> DivisionLens:
        """Lens of the image in the division model; `image_size` must be known."""
        assert self.image_size is not None
        return DivisionLens(self.image_size, self.division)

    def noise_or_ones(self) -> NDArray[np.floating]:
        """Return `noise`, or ones if it is None. (K,)."""
        return np.ones(len(self.xy)) if self.noise is None else self.noise


@dataclass(frozen=True)
class PairMatches:
    """Verified matches of a pair of images, with the epipolar geometry of the pair."""

    first: int
    """Index of the first image, always smaller than `second`."""
    second: int
    """Index of the second image."""
    indices: NDArray[np.int64]
    """Keypoint indices of each match in the first and in the second image. (M, 2)."""
    fundamental: NDArray[np.floating]
    """Fundamental matrix F with x_second^T F x_first = 0, in full-resolution pixels. For wide-angle lenses, x
    are homogeneous pixel coordinates without distortion (see `DivisionLens.pixels_from_homogeneous`).
    (3, 3)."""
    homography_ratio: float
    """Fraction of the matches that are inliers of one homography: near 1 for pure rotation or a planar
    scene."""
    stationary: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Keypoint indices of matches that contradict the epipolar geometry and whose two keypoints have the same
    pixel position, as on a logo. Column 0 contains keypoints of the first image, column 1 keypoints of the
    second. These matches are not contained in `indices`. (S, 2)."""
    num_second_motion: int = 0
    """Number of matches outside `indices` that are inliers of a second epipolar geometry, for example due to
    a moving object; 0 if no second geometry was found."""


MatchedPairs = Mapping[tuple[int, int], PairMatches | None]
"""Verified matches of each pair, by its image indices; None if the pair has no valid epipolar geometry."""


@dataclass(frozen=True)
class PairPointmaps:
    """Pointmaps of an ordered image pair, both in the camera coordinates of the first image."""

    first: int
    """Index of the first image, in whose camera coordinates (OpenCV axes) all points are given."""
    second: int
    """Index of the second image."""
    points: tuple[NDArray[np.float32], NDArray[np.float32]]
    """3D points of the pixels of the first and of the second image, up to scale; NaN for invalid pixels.
    (H, W, 3) each."""
    confidence: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Confidence of the points of the first and of the second image: greater than one, and larger for more
    reliable points. (H, W) each."""


@dataclass(frozen=True)
class Pointmaps:
    """Pointmaps of ordered image pairs, sampled on one regular pixel grid per image."""

    pixel_sizes: NDArray[np.floating]
    """Grid spacing of each image in x and y, in full-resolution pixels. (N, 2)."""
    corners: NDArray[np.floating]
    """Upper left corner (x, y) of each image's grid, in full-resolution pixels: half a grid spacing to the
    left of the first grid point and above it. (N, 2)."""
    pairs: tuple[PairPointmaps, ...]
    """Pointmaps of each ordered pair."""

    def without(self, excluded: NDArray[np.bool_]) -> Pointmaps:
        """Return the pointmaps without the pairs that contain an excluded image.

        Args:
            excluded: Whether each image is excluded. (N,).
        """
        kept = (pair for pair in self.pairs if not excluded[pair.first] and not excluded[pair.second])
        return replace(self, pairs=tuple(kept))
