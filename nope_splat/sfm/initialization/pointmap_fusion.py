"""Estimation of focal lengths and depth maps from the pointmaps of image pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.depth import DepthMap
from nope_splat.geometry.projection import perspective
from nope_splat.geometry.robust import NORMAL_IQR
from nope_splat.matching import Pointmaps
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.focal import (
    FocalEstimate,
    is_plausible,
    prior_estimate,
    weighted_quantiles,
)
from nope_splat.sfm.mapper_options import FocalEstimationOptions, IntrinsicsPriorOptions
from nope_splat.utils.typing import Array, Indices

MIN_POINTS = 50
"""Minimum number of valid points for fitting a focal length, a depth map, or the scale between two pairs."""


def fuse_pointmap_depths(pointmaps: Pointmaps) -> dict[int, DepthMap]:
    """Average the depths of each image over its pairs, weighted by confidence.

    Only pairs in which the image comes first are used, because the points of a pair are in the camera
    coordinates of its first image. The scale of each pair is arbitrary. Therefore, the depths of each pair
    are multiplied by a factor before averaging: the median ratio of the depths of the most confident pair to
    the depths of this pair.

    Args:
        pointmaps: Pointmaps of the pairs.

    Returns:
        Depth maps by image index; images without enough valid points are omitted. The maps have the kind
        "metric": depth up to an unknown scale (see `DepthKind`).
    """
    depths: dict[int, DepthMap] = {}
    for image_id in sorted({pair.first for pair in pointmaps.pairs}):
        pairs = [pair for pair in pointmaps.pairs if pair.first == image_id]
        z = np.stack([np.where(pair.points[0][..., 2] > 0, pair.points[0][..., 2], np.nan) for pair in pairs])
        confidences = np.where(np.isfinite(z), np.stack([pair.confidence[0] for pair in pairs]), 0.0)
        reference = z[confidences.sum(axis=(1, 2)).argmax()]
        total, mean = np.zeros(reference.shape), np.zeros(reference.shape)
        for depth, confidence in zip(z, confidences, strict=True):
            both = np.isfinite(depth) & np.isfinite(reference)
            if both.sum() < MIN_POINTS:
                continue
            scale = np.median(reference[both] / depth[both])
            total += confidence
            mean += confidence * np.where(confidence > 0, scale * depth, 0.0)
        has_depth = total > 0
        if has_depth.sum() < MIN_POINTS:
            continue
        depths[image_id] = DepthMap(
            np.where(has_depth, mean / np.where(has_depth, total, 1.0), np.nan).astype(np.float32),
            "metric",
            (float(pointmaps.pixel_sizes[image_id, 0]), float(pointmaps.pixel_sizes[image_id, 1])),
            (float(pointmaps.corners[image_id, 0]), float(pointmaps.corners[image_id, 1])),
            (total / len(pairs)).astype(np.float32),
        )
    return depths


def pointmap_focals(
    pointmaps: Pointmaps,
    camera_groups: CameraGroups,
    options: FocalEstimationOptions = FocalEstimationOptions(),
    max_sigma: float = IntrinsicsPriorOptions.log_focal_sigma,
) -> list[FocalEstimate]:
    """Estimate the focal length of each camera from the pointmaps of its images.

    Args:
        pointmaps: Pointmaps of the pairs.
        camera_groups: Image sizes, and camera of each image.
        options: Plausible range, and thresholds for consistent pairs.
        max_sigma: Upper limit of the standard deviation of the natural logarithm of a focal length; a larger
            standard deviation is replaced by this value.

    Returns:
        Estimate of each of the K cameras, in pixels at keypoint detection resolution.
    """
    estimates = []
    for camera_id, pixel_size in enumerate(camera_groups.camera_pixel_sizes.tolist()):
        in_camera = camera_groups.camera_ids == camera_id
        pairs = tuple(pair for pair in pointmaps.pairs if in_camera[pair.first])
        longer_side = float(camera_groups.longer_sides[camera_id]) * pixel_size
        estimate = pointmap_focal(
            replace(pointmaps, pairs=pairs), camera_groups.sizes, longer_side, options, max_sigma
        )
        starts = tuple(start / pixel_size for start in estimate.starts)
        estimates.append(replace(estimate, focal=estimate.focal / pixel_size, starts=starts))
    return estimates


def pointmap_focal(
    pointmaps: Pointmaps,
    sizes: Indices,
    longer_side: float,
    options: FocalEstimationOptions = FocalEstimationOptions(),
    max_sigma: float = IntrinsicsPriorOptions.log_focal_sigma,
) -> FocalEstimate:
    """Estimate the focal length of one camera from pointmaps, as a weighted median over the pairs.

    The focal length of a pair is the one that best projects the points of the pair to their pixels; the
    weight of the pair is the total confidence of these points. The standard deviation is not divided by the
    square root of the number of pairs, because networks make similar errors in all pairs.

    Args:
        pointmaps: Pointmaps of the pairs whose first image belongs to the camera.
        sizes: Width and height of each image at full resolution, in pixels. (N, 2).
        longer_side: Longer side of the camera's images, in full-resolution pixels.
        options: Plausible range, and thresholds for consistent pairs.
        max_sigma: Upper limit of the standard deviation of the natural logarithm of the focal length; a
            larger standard deviation is replaced by this value.

    Returns:
        The estimate in full-resolution pixels, with several initial focal lengths if pairs are inconsistent.
        If no pair gives a plausible focal length, the estimate follows from the assumed field of view.
    """
    by_pair = []
    for pair in pointmaps.pairs:
        xy = grid_pixels(pointmaps, pair.first, pair.points[0].shape[:2]) - sizes[pair.first] / 2
        is_valid = np.isfinite(pair.points[0]).all(-1) & (pair.points[0][..., 2] > 0)
        if is_valid.sum() >= MIN_POINTS:
            focal = weiszfeld_focal(xy[is_valid], pair.points[0][is_valid], pair.confidence[0][is_valid])
            by_pair.append((focal, pair.confidence[0][is_valid].sum()))
    plausible = [
        (focal, confidence) for focal, confidence in by_pair if is_plausible(focal, longer_side, options)
    ]
    if not plausible:
        return replace(prior_estimate(longer_side, options), sigma=max_sigma)
    focals, weights = np.array(plausible).T
    lower, median, upper = weighted_quantiles(focals, weights, (0.25, 0.5, 0.75))
    factors = (1.0,) if upper / lower < options.max_quartile_ratio else options.start_factors
    log_sigma = np.log(upper / lower) / NORMAL_IQR
    sigma = float(np.clip(log_sigma, options.min_log_focal_sigma, max_sigma))
    return FocalEstimate(median, tuple(median * factor for factor in factors), len(plausible), sigma)


def weiszfeld_focal(
    xy: Array,
    points: NDArray[np.floating],
    weights: NDArray[np.floating] | Sequence[float],
    num_steps: int = 20,
) -> float:
    """Find the focal length f that minimizes the weighted sum of the distances |xy - f (x/z, y/z)|.

    The distances are not squared, which makes the estimate robust. The method is Weiszfeld's algorithm
    (Plastria 2011), as in DUSt3R (Wang et al., CVPR 2024, section 3.3).

    Args:
        xy: Pixel coordinates relative to the principal point. (n, 2).
        points: Camera coordinates (x, y, z) of the points at these pixels, with z > 0. (n, 3).
        weights: Weight of each pixel, such as its confidence. (n,).
        num_steps: Number of iterations.

    Returns:
        The focal length in pixels; it may be zero or negative if points and pixels do not agree.
    """
    plane = perspective(points.astype(np.float64))
    weights = np.asarray(weights, np.float64)
    weight = weights
    focal = 0.0
    for _ in range(num_steps):
        focal = float((weight * (xy * plane).sum(1)).sum() / max((weight * (plane**2).sum(1)).sum(), 1e-12))
        weight = weights / np.maximum(np.linalg.norm(xy - focal * plane, axis=1), 1e-6)
    return focal


def grid_pixels(pointmaps: Pointmaps, image_id: int, shape: tuple[int, ...]) -> Array:
    """Compute the full-resolution pixel coordinates of all grid points of an image's pointmaps.

    Args:
        pointmaps: Pointmaps, with the grid of each image.
        image_id: Index of the image.
        shape: Number of rows H and number of columns W of the grid.

    Returns:
        Pixel coordinates (x, y). (H, W, 2).
    """
    cells = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), axis=-1)
    return cells * pointmaps.pixel_sizes[image_id] + pointmaps.corners[image_id]
