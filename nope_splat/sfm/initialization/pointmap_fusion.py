"""What the pointmaps of all its pairs together say of one image: its focal length and its depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.depth import DepthMap
from nope_splat.geometry.projection import perspective
from nope_splat.geometry.robust import QUARTILE_DISTANCE
from nope_splat.matching import Pointmaps
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.focal import (
    FLAT_SPREAD,
    LONGER_STARTS,
    PLAUSIBLE,
    FocalEstimate,
    prior_focal,
    weighted_quantiles,
)
from nope_splat.sfm.state import LOG_FOCAL_SIGMA
from nope_splat.utils.typing import Array, Indices

WEISZFELD_STEPS = 20
"""Steps of Weiszfeld's algorithm."""
MIN_POINTS = 50
"""Fewest points that tell anything."""
MIN_FOCAL_SIGMA = 0.05
"""Smallest standard deviation of the logarithm of a focal length: the errors that a network makes in all
images of a scene alike do not show in how far these scatter."""


def fuse_pointmap_depths(pointmaps: Pointmaps) -> dict[int, DepthMap]:
    """Depth of each image in its own frame: the mean of its pairs, weighted by their confidence.

    Pairs have units of their own; the median ratio of depths brings them to that of the most confident.

    Args:
        pointmaps: Of the pairs that may have a say.

    Returns:
        Metric depth maps by image, of those that have enough usable points.
    """
    depths: dict[int, DepthMap] = {}
    for image_id in sorted({pair.first for pair in pointmaps.pairs}):
        own = [pair for pair in pointmaps.pairs if pair.first == image_id]
        z = np.stack([np.where(pair.points[0][..., 2] > 0, pair.points[0][..., 2], np.nan) for pair in own])
        weight = np.where(np.isfinite(z), np.stack([pair.confidence[0] for pair in own]), 0.0)
        reference = z[weight.sum(axis=(1, 2)).argmax()]
        total, mean = np.zeros(reference.shape), np.zeros(reference.shape)
        for one, trust in zip(z, weight, strict=True):
            both = np.isfinite(one) & np.isfinite(reference)
            if both.sum() < MIN_POINTS:
                continue
            scale = np.median(reference[both] / one[both])
            total += trust
            mean += trust * np.where(trust > 0, scale * one, 0.0)
        known = total > 0
        if known.sum() < MIN_POINTS:
            continue
        depths[image_id] = DepthMap(
            np.where(known, mean / np.where(known, total, 1.0), np.nan).astype(np.float32),
            "metric",
            (float(pointmaps.pixel_sizes[image_id, 0]), float(pointmaps.pixel_sizes[image_id, 1])),
            (float(pointmaps.corners[image_id, 0]), float(pointmaps.corners[image_id, 1])),
            (total / len(own)).astype(np.float32),
        )
    return depths


def pointmap_focals(pointmaps: Pointmaps, layout: CameraGroups) -> list[FocalEstimate]:
    """What the pointmaps of each camera's images say of its focal length.

    Args:
        pointmaps: Of the pairs that may have a say.
        layout: Which camera took which image.

    Returns:
        Estimates of the K cameras, feature pixels.
    """
    estimates = []
    for camera, unit in enumerate(layout.camera_pixel_sizes.tolist()):
        others = layout.camera_ids != camera
        pairs = tuple(pair for pair in pointmaps.pairs if not others[pair.first])
        longer_side = float(layout.longer_sides[camera]) * unit
        estimate = pointmap_focal(replace(pointmaps, pairs=pairs), layout.sizes, longer_side)
        starts = tuple(start / unit for start in estimate.starts)
        estimates.append(replace(estimate, focal=estimate.focal / unit, starts=starts))
    return estimates


def pointmap_focal(pointmaps: Pointmaps, sizes: Indices, longer_side: float) -> FocalEstimate:
    """Median over the pairs of the focal length that brings their points to where their pixels are.

    It is not surer for being that of many pairs, since a network errs alike in all of them: its spread is
    that of one.

    Args:
        pointmaps: Of the pairs that may have a say.
        sizes: Width and height of the images at full resolution. (N, 2).
        longer_side: Longer side of the images that are the first of their pairs, full-resolution pixels.

    Returns:
        The estimate in full-resolution pixels, with several starts where the pairs do not agree.
    """
    found = []
    for pair in pointmaps.pairs:
        xy = grid_positions(pointmaps, pair.first, pair.points[0].shape[:2]) - sizes[pair.first] / 2
        known = np.isfinite(pair.points[0]).all(-1) & (pair.points[0][..., 2] > 0)
        if known.sum() >= MIN_POINTS:
            focal = weiszfeld_focal(xy[known], pair.points[0][known], pair.confidence[0][known])
            found.append((focal, pair.confidence[0][known].sum()))
    found = [one for one in found if PLAUSIBLE[0] * longer_side < one[0] < PLAUSIBLE[1] * longer_side]
    if not found:
        prior = prior_focal(longer_side)
        return FocalEstimate(prior, tuple(prior * k for k in LONGER_STARTS), 0)
    focals, weights = np.array(found).T
    lower, median, upper = weighted_quantiles(focals, weights, (0.25, 0.5, 0.75))
    starts = (1.0,) if upper / lower < FLAT_SPREAD else LONGER_STARTS
    sigma = float(np.clip(np.log(upper / lower) / QUARTILE_DISTANCE, MIN_FOCAL_SIGMA, LOG_FOCAL_SIGMA))
    return FocalEstimate(median, tuple(median * k for k in starts), len(found), sigma)


def weiszfeld_focal(
    xy: Array, points: NDArray[np.floating], weights: NDArray[np.floating] | Sequence[float]
) -> float:
    """Focal length f that minimizes the weighted sum of the distances |xy - f (x/z, y/z)|.

    Distances that are not squared hardly heed outliers. Weiszfeld's algorithm (Plastria 2011), as in DUSt3R
    (Wang et al., CVPR 2024, section 3.3).

    Args:
        xy: Pixels from the principal point. (n, 2).
        points: Their points in camera coordinates, in front of the camera. (n, 3).
        weights: Their weights. (n,).

    Returns:
        The focal length in pixels; zero or less where the points are nonsense.
    """
    plane = perspective(points.astype(np.float64))
    weights = np.asarray(weights, np.float64)
    weight = weights
    focal = 0.0
    for _ in range(WEISZFELD_STEPS):
        focal = float((weight * (xy * plane).sum(1)).sum() / max((weight * (plane**2).sum(1)).sum(), 1e-12))
        weight = weights / np.maximum(np.linalg.norm(xy - focal * plane, axis=1), 1e-6)
    return focal


def grid_positions(pointmaps: Pointmaps, image_id: int, shape: tuple[int, ...]) -> Array:
    """Where the points of an image's pointmaps are seen, full-resolution pixels. (H, W, 2)."""
    cells = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), axis=-1)
    return cells * pointmaps.pixel_sizes[image_id] + pointmaps.corners[image_id]
