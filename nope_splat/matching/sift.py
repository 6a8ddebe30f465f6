"""SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic and Zisserman 2012)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.images import Photo, read_mask, read_photo

from .settings import MatchingSettings
from .types import Keypoints

NOISE_DIAMETER = 2.6
"""Diameter of a keypoint, in pixels of the searched image, from which its own blur outweighs all other noise.

Fitted to the reprojection errors of four scenes, photographed and rendered: 2.5 to 2.7 pixels in each."""


def sift_keypoints(photo: Photo, settings: MatchingSettings) -> Keypoints:
    """Find the keypoints of one photograph.

    A place with several dominant orientations gives several keypoints with the same `xy`.

    Args:
        photo: The photograph; what its mask excludes is not searched.
        settings: Number of keypoints and size at which they are sought.

    Returns:
        The keypoints, strongest first; few or none if the photograph lacks texture.
    """
    pixel_size, size = settings.feature_size(photo)
    grey = cv2.cvtColor(read_photo(photo, size)[..., :3], cv2.COLOR_RGB2GRAY)
    mask = read_mask(photo, size)
    # Without the precise upscale OpenCV's coordinates are off by a quarter of a pixel.
    # OpenCV counts before it looks at the mask: with one, all are found and the strongest kept below.
    detector = cv2.SIFT.create(
        nfeatures=settings.max_keypoints if mask is None else 0,
        contrastThreshold=0.02,
        enable_precise_upscale=True,
    )
    used = np.ones_like(grey) if mask is None else mask.astype(np.uint8)
    found, descriptors = detector.detectAndCompute(grey, used)
    if descriptors is None:
        return Keypoints(np.zeros((0, 2)), np.zeros((0, 128), np.float32), pixel_size)

    # OpenCV puts the centre of the first pixel at (0, 0).
    xy = (np.array([point.pt for point in found]) + 0.5) * (photo.width / size[0], photo.height / size[1])
    strength = np.array([point.response for point in found])
    diameter = np.array([point.size for point in found])
    order = np.argsort(-strength, kind="stable")[: settings.max_keypoints]
    return Keypoints(
        xy[order],
        _root_sift(descriptors[order].astype(np.float32)),
        pixel_size,
        noise=np.hypot(1.0, diameter[order] / NOISE_DIAMETER),
    )


def _root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square roots of L1-normalised descriptors: their dot product is the Hellinger kernel. (K, 128)."""
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
