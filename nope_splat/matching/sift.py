"""SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic and Zisserman 2012)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.io.images import ImageFile, read_image, read_mask
from nope_splat.matching.options import MatchingSettings, SiftOptions
from nope_splat.scene.features import Keypoints, MaskEffect


def sift_keypoints(image: ImageFile, settings: MatchingSettings) -> Keypoints:
    """Detect and describe the SIFT keypoints of an image.

    A blob with several dominant gradient orientations gives several keypoints with the same `xy`.

    Args:
        image: The image; keypoints at masked pixels are removed.
        settings: Maximum number of keypoints, image size for detection, and SIFT options.

    Returns:
        The keypoints, by decreasing contrast; few or none if the image lacks texture.
    """
    options = settings.sift
    pixel_size, size = settings.feature_size(image)
    gray = cv2.cvtColor(read_image(image, size)[..., :3], cv2.COLOR_RGB2GRAY)
    gray = raise_contrast(np.asarray(gray, np.uint8), options)
    mask = read_mask(image, size)
    # Without the precise upscale, OpenCV's coordinates are off by a quarter of a pixel.
    detector = cv2.SIFT.create(contrastThreshold=options.contrast_threshold, enable_precise_upscale=True)
    detections, mask_effect = _apply_mask(detector.detect(gray, np.ones_like(gray)), mask)
    if not detections:
        return Keypoints(
            np.zeros((0, 2)),
            np.zeros((0, 128), np.float32),
            pixel_size,
            image_size=(image.width, image.height),
            mask_effect=mask_effect,
        )
    xy = np.array([detection.pt for detection in detections])
    diameter = np.array([detection.size for detection in detections])
    strength = np.array([detection.response for detection in detections])
    selected = select_keypoints(
        xy / max(size), diameter, strength, settings.max_keypoints, options.num_grid_cells
    )
    _, descriptors = detector.compute(gray, [detections[index] for index in selected])
    return Keypoints(
        # OpenCV puts the center of the first pixel at (0, 0).
        (xy[selected] + 0.5) * (image.width / size[0], image.height / size[1]),
        _root_sift(descriptors.astype(np.float32)),
        pixel_size,
        noise=np.hypot(1.0, diameter[selected] / options.noise_diameter),
        image_size=(image.width, image.height),
        mask_effect=mask_effect,
    )


def raise_contrast(gray: NDArray[np.uint8], options: SiftOptions) -> NDArray[np.uint8]:
    """Raise the contrast of an underexposed or hazy image; return other images unchanged.

    Args:
        gray: Gray levels. (H, W).
        options: Minimum range of the gray levels, and maximum factor.

    Returns:
        Gray levels, scaled around the middle of their range and shifted into the range from 0 to 255. (H, W).
    """
    shares = np.bincount(gray.reshape(-1), minlength=256).cumsum() / gray.size
    low, high = np.searchsorted(shares, [0.005, 0.995])
    if high - low >= options.min_gray_range:
        return gray
    gain = min(options.max_gain, options.min_gray_range / max(high - low, 1))
    levels = (np.arange(256) - (low + high) / 2) * gain + 127.5
    return np.rint(levels).clip(0, 255).astype(np.uint8)[gray]


def select_keypoints(
    xy: NDArray[np.floating],
    diameter: NDArray[np.floating],
    strength: NDArray[np.floating],
    max_keypoints: int,
    num_grid_cells: int,
) -> NDArray[np.int64]:
    """Select keypoints that are large, strong, and spread over the image.

    Half of the selected keypoints are the largest keypoints: they are also visible in images from nearer or
    farther away, and therefore connect images. The other half is selected from the smaller, more precise
    keypoints: the strongest keypoint of each grid cell, then the second strongest, and so on. If strength
    alone decided, a single region such as the leaves of a tree could use up all keypoints.

    Args:
        xy: Positions as fractions of the longer image side, x then y. (K, 2).
        diameter: Diameters of the keypoints, in any unit. (K,).
        strength: Contrasts of the keypoints. (K,).
        max_keypoints: Maximum number of keypoints to select.
        num_grid_cells: Number of grid cells along the longer image side.

    Returns:
        Indices of the selected keypoints, strongest first. (min(K, max_keypoints),).
    """
    order = np.argsort(-strength, kind="stable")
    if len(order) <= max_keypoints:
        return order
    largest = np.argsort(-diameter, kind="stable")[: max_keypoints // 2]
    smaller = order[~np.isin(order, largest)]
    column, row = (num_grid_cells * xy[smaller]).astype(np.int64).T
    _, cell, counts = np.unique(column * (num_grid_cells + 1) + row, return_inverse=True, return_counts=True)
    by_cell = np.argsort(cell, kind="stable")
    rank_in_cell = np.empty(len(smaller), np.int64)
    rank_in_cell[by_cell] = np.arange(len(smaller)) - np.repeat(counts.cumsum() - counts, counts)
    spread = smaller[np.argsort(rank_in_cell, kind="stable")[: max_keypoints - len(largest)]]
    return order[np.isin(order, np.concatenate([largest, spread]))]


def _apply_mask(
    detections: Sequence[cv2.KeyPoint], mask: NDArray[np.bool_] | None
) -> tuple[Sequence[cv2.KeyPoint], MaskEffect | None]:
    """Remove the keypoints at hidden pixels of a mask, as OpenCV does if the mask is passed to the detector.

    Args:
        detections: The keypoints of the whole image.
        mask: True for used pixels (H, W); None to keep all keypoints.

    Returns:
        The remaining keypoints; and the numbers of kept and removed keypoints and the used area, or None
        without a mask.
    """
    if mask is None:
        return detections, None
    xy = np.array([detection.pt for detection in detections], np.float32).reshape(-1, 2)
    column, row = (xy + np.float32(0.5)).astype(np.int64).T  # the center of OpenCV's first pixel is (0, 0)
    used = np.flatnonzero(mask[row, column]).tolist()
    effect = MaskEffect(len(used), len(detections) - len(used), float(mask.mean()))
    return [detections[index] for index in used], effect


def _root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute RootSIFT: square roots of L1-normalized SIFT descriptors. (K, 128) -> (K, 128).

    The dot product of two RootSIFT descriptors is the Hellinger kernel of the SIFT descriptors.
    """
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
