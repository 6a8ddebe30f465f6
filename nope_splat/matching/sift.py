"""SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic and Zisserman 2012)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.io.images import ImageFile, read_image, read_mask
from nope_splat.matching.options import MatchingSettings
from nope_splat.scene.features import Keypoints

NOISE_DIAMETER = 2.6
"""Diameter of a keypoint, in pixels of the searched image, from which its own blur outweighs all other noise.

Fitted to the reprojection errors of four scenes, photographed and rendered: 2.5 to 2.7 pixels in each."""
CELLS = 16
"""Cells along the longer side of an image among which keypoints are shared out."""


def sift_keypoints(image: ImageFile, settings: MatchingSettings) -> Keypoints:
    """Find the keypoints of one image.

    A place with several dominant orientations gives several keypoints with the same `xy`.

    Args:
        image: The image; what its mask excludes is not searched.
        settings: Number of keypoints and size at which they are sought.

    Returns:
        The keypoints, strongest first; few or none if the image lacks texture.
    """
    pixel_size, size = settings.feature_size(image)
    gray = cv2.cvtColor(read_image(image, size)[..., :3], cv2.COLOR_RGB2GRAY)
    mask = read_mask(image, size)
    # Without the precise upscale OpenCV's coordinates are off by a quarter of a pixel.
    detector = cv2.SIFT.create(contrastThreshold=0.02, enable_precise_upscale=True)
    found = detector.detect(gray, np.ones_like(gray) if mask is None else mask.astype(np.uint8))
    if not found:
        return Keypoints(np.zeros((0, 2)), np.zeros((0, 128), np.float32), pixel_size)
    xy = np.array([point.pt for point in found])
    diameter = np.array([point.size for point in found])
    strength = np.array([point.response for point in found])
    chosen = choose_keypoints(xy / max(size), diameter, strength, settings.max_keypoints)
    _, descriptors = detector.compute(gray, [found[index] for index in chosen])
    return Keypoints(
        # OpenCV puts the center of the first pixel at (0, 0).
        (xy[chosen] + 0.5) * (image.width / size[0], image.height / size[1]),
        _root_sift(descriptors.astype(np.float32)),
        pixel_size,
        noise=np.hypot(1.0, diameter[chosen] / NOISE_DIAMETER),
    )


def choose_keypoints(
    xy: NDArray[np.float64], diameter: NDArray[np.float64], strength: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Choose among the keypoints of an image that has too many.

    By strength alone, the leaves of one tree would take the places of all else. Half are the largest, which
    other images show too, from nearer and from farther; they connect images. The others, smaller
    and more precise, are the strongest of every cell of a grid in turn.

    Args:
        xy: Places, as shares of the longer side. (K, 2).
        diameter: Of the blobs. (K,).
        strength: Their contrast. (K,).
        count: How many to choose.

    Returns:
        Indices, strongest first. (min(K, count),).
    """
    order = np.argsort(-strength, kind="stable")
    if len(order) <= count:
        return order
    largest = np.argsort(-diameter, kind="stable")[: count // 2]
    others = order[~np.isin(order, largest)]
    column, row = (CELLS * xy[others]).astype(np.int64).T
    _, cell, sizes = np.unique(column * (CELLS + 1) + row, return_inverse=True, return_counts=True)
    by_cell = np.argsort(cell, kind="stable")
    turn = np.empty(len(others), np.int64)
    turn[by_cell] = np.arange(len(others)) - np.repeat(sizes.cumsum() - sizes, sizes)
    others = others[np.argsort(turn, kind="stable")[: count - len(largest)]]
    return order[np.isin(order, np.concatenate([largest, others]))]


def _root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square roots of L1-normalized descriptors: their dot product is the Hellinger kernel. (K, 128)."""
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
