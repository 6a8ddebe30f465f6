"""Estimation of each camera's focal length from verified matches, before any pose is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import poselib

from nope_splat.scene.features import PairMatches
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.mapper_options import FocalEstimationOptions, IntrinsicsPriorOptions
from nope_splat.utils.typing import Array

MIN_NUM_MATCHES = 6
"""Number of matches that the six-point algorithm needs."""


@dataclass(frozen=True)
class FocalEstimate:
    """Estimated focal length of one camera, with its uncertainty."""

    focal: float
    """Focal length: the weighted median of the estimates from single pairs or, if none of these is plausible,
    the focal length for the assumed field of view. The unit is pixels at keypoint detection resolution,
    unless the function that returns the estimate states another unit."""
    starts: tuple[float, ...]
    """Initial focal lengths to try, in the unit of `focal`; several if the estimates from single pairs are
    inconsistent or too few."""
    num_pairs: int
    """Number of pairs from which a plausible focal length was estimated."""
    sigma: float = IntrinsicsPriorOptions.log_focal_sigma
    """Standard deviation of the natural logarithm of the focal length. Estimates from matches keep the large
    default value, because bundle adjustment uses the same matches again; estimates from pointmaps may set a
    smaller value."""

    @property
    def is_certain(self) -> bool:
        """Whether the estimates from single pairs are consistent."""
        return len(self.starts) == 1


def prior_focal(longer_side: float, options: FocalEstimationOptions = FocalEstimationOptions()) -> float:
    """Compute the focal length for the assumed field of view across the longer side.

    Args:
        longer_side: Longer side of the images, in pixels.
        options: Assumed field of view, `prior_field_of_view`.

    Returns:
        The focal length, in the same pixels as `longer_side`.
    """
    return longer_side / 2 / np.tan(np.radians(options.prior_field_of_view / 2))


def prior_estimate(longer_side: float, options: FocalEstimationOptions) -> FocalEstimate:
    """Create an estimate from the assumed field of view, with several initial focal lengths to try.

    Args:
        longer_side: Longer side of the images, in pixels.
        options: Assumed field of view, and factors that give the initial focal lengths.

    Returns:
        The estimate, in the same pixels as `longer_side`.
    """
    focal = prior_focal(longer_side, options)
    return FocalEstimate(focal, tuple(focal * factor for factor in options.start_factors), 0)


def is_plausible(focal: float, longer_side: float, options: FocalEstimationOptions) -> bool:
    """Check that a focal length is in the plausible range; `focal` and `longer_side` have the same unit."""
    shortest, longest = options.min_focal_length_ratio, options.max_focal_length_ratio
    return shortest * longer_side < focal < longest * longer_side


def estimate_focal(
    centered_keypoints: Sequence[Array],
    pairs: Sequence[PairMatches],
    longer_side: float,
    seed: int = 0,
    options: FocalEstimationOptions = FocalEstimationOptions(),
) -> FocalEstimate:
    """Estimate the focal length of one camera by the six-point algorithm.

    The result is the median of the focal lengths of single pairs, weighted by their numbers of inliers. The
    focal lengths of planar pairs and of pairs with little motion are often much too short or much too long,
    but in experiments discarding these pairs gave worse results.

    Args:
        centered_keypoints: Keypoints of each image relative to the image center, in pixels at keypoint
            detection resolution. (K, 2) each.
        pairs: Verified matches of image pairs; both images of each pair belong to the camera.
        longer_side: Longer side of the images, in pixels at keypoint detection resolution.
        seed: Random seed of RANSAC.
        options: Plausible range, and thresholds for consistent pairs.

    Returns:
        The estimate, in pixels at keypoint detection resolution; if no pair gives a plausible focal length,
        the estimate follows from the assumed field of view.
    """
    strongest = sorted(pairs, key=lambda pair: -len(pair.indices))[: options.max_num_pairs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        by_pair = list(pool.map(lambda pair: _pair_focal(centered_keypoints, pair, seed), strongest))
    plausible = [
        (focal, num_inliers) for focal, num_inliers in by_pair if is_plausible(focal, longer_side, options)
    ]
    if not plausible:
        return prior_estimate(longer_side, options)
    focals, weights = np.array(plausible).T
    lower, median, upper = weighted_quantiles(focals, weights, (0.25, 0.5, 0.75))
    agree = len(focals) >= options.min_num_agreeing_pairs and upper / lower < options.max_quartile_ratio
    factors = (1.0,) if agree else options.start_factors
    return FocalEstimate(median, tuple(median * factor for factor in factors), len(focals))


def pairs_by_camera(pairs: Sequence[PairMatches], camera_groups: CameraGroups) -> list[list[PairMatches]]:
    """Group pairs by camera; pairs of images from different cameras are omitted.

    Args:
        pairs: Verified matches of each pair.
        camera_groups: Image sizes, and camera of each image.

    Returns:
        One list of pairs for each of the K cameras.
    """
    by_camera: list[list[PairMatches]] = [[] for _ in range(camera_groups.num_cameras)]
    for pair in pairs:
        first, second = camera_groups.camera_ids[[pair.first, pair.second]]
        if first == second:
            by_camera[first].append(pair)
    return by_camera


def focal_starts(
    centered_keypoints: Sequence[Array],
    pairs: Sequence[PairMatches],
    camera_groups: CameraGroups,
    exif_focals: Array,
    seed: int = 0,
    options: FocalEstimationOptions = FocalEstimationOptions(),
) -> tuple[Array, ...]:
    """Estimate initial focal lengths of all cameras.

    The focal length of each camera is first estimated from pairs in which both images belong to the camera.
    If these pairs are inconsistent, it is estimated from pairs with images of cameras that have consistent
    pairs; the focal length from EXIF data is preferred if it agrees with this estimate, or if there are only
    few such pairs. If no camera has consistent pairs, the cameras with EXIF data and the camera with the most
    pairs are treated as if their pairs were consistent.

    Args:
        centered_keypoints: Keypoints of each image relative to the image center, in pixels at keypoint
            detection resolution. One array (n, 2) per image.
        pairs: Verified matches of each pair.
        camera_groups: Image sizes, and camera of each image.
        exif_focals: Focal length of each camera according to EXIF data, in pixels at keypoint detection
            resolution; NaN if unknown. (K,).
        seed: Random seed of RANSAC.
        options: Plausible range, and thresholds for consistent pairs.

    Returns:
        Candidates to try; each contains the focal lengths of all K cameras, in pixels at keypoint detection
        resolution. (K,) each. There are several candidates if no camera has consistent pairs.
    """
    by_camera = pairs_by_camera(pairs, camera_groups)
    estimates = [
        estimate_focal(centered_keypoints, camera_pairs, longer_side, seed, options)
        for camera_pairs, longer_side in zip(by_camera, camera_groups.longer_sides.tolist(), strict=True)
    ]
    for camera in np.flatnonzero(np.isfinite(exif_focals)).tolist():
        estimates[camera] = _with_exif(estimates[camera], float(exif_focals[camera]))
    focals = np.array([estimate.focal for estimate in estimates])
    is_reference = np.array([estimate.is_certain for estimate in estimates])
    if not is_reference.any():
        is_reference = np.isfinite(exif_focals)
    is_reference[_best_camera(estimates)] = True
    for camera in np.flatnonzero(~is_reference).tolist():
        joint_pairs = []
        for pair in pairs:
            first, second = camera_groups.camera_ids[[pair.first, pair.second]]
            if (first == camera and is_reference[second]) or (second == camera and is_reference[first]):
                joint_pairs.append(pair)
        found = focal_from_known_cameras(camera, joint_pairs, focals, camera_groups, options)
        if np.isfinite(exif_focals[camera]):
            agrees = abs(np.log(found / exif_focals[camera])) < np.log(options.max_exif_ratio)
            if agrees or len(joint_pairs) < options.min_num_agreeing_pairs:
                continue
        focals[camera] = found
        estimates[camera] = replace(estimates[camera], focal=found)
    return joint_focal_starts(estimates)


def _with_exif(estimate: FocalEstimate, exif_focal: float) -> FocalEstimate:
    """Prefer the EXIF focal length to an inconsistent estimate, whose starts are then tried last."""
    if estimate.is_certain:
        return estimate
    return replace(estimate, focal=exif_focal, starts=(exif_focal, *estimate.starts))


def joint_focal_starts(estimates: Sequence[FocalEstimate]) -> tuple[Array, ...]:
    """Combine the estimates of all cameras into candidates for their initial focal lengths.

    In each candidate, the estimated focal lengths of all cameras are multiplied by one common factor. The
    factors are `starts / focal` of the most certain camera: the camera with the most pairs among those with
    consistent pairs, or among all cameras if no camera has consistent pairs.

    Args:
        estimates: Estimate of each of the K cameras.

    Returns:
        Candidates to try; each contains the focal lengths of all cameras, in the unit of `estimates`. (K,)
        each.
    """
    focals = np.array([estimate.focal for estimate in estimates])
    best = estimates[_best_camera(estimates)]
    return tuple(focals * (start / best.focal) for start in best.starts)


def _best_camera(estimates: Sequence[FocalEstimate]) -> int:
    """Return the index of the camera with the most pairs, preferring cameras with consistent pairs."""
    support = [(estimate.is_certain, estimate.num_pairs) for estimate in estimates]
    return support.index(max(support))


def focal_from_known_cameras(
    camera: int,
    pairs: Sequence[PairMatches],
    focals: Array,
    camera_groups: CameraGroups,
    options: FocalEstimationOptions = FocalEstimationOptions(),
) -> float:
    """Estimate the focal length of a camera from pairs with other cameras, whose focal lengths are known.

    With the fundamental matrix F and the focal lengths f1 and f2 of a pair, diag(f2, f2, 1) F diag(f1, f1, 1)
    is an essential matrix, whose two nonzero singular values are equal. For each pair, the focal length that
    makes these singular values most nearly equal is found; the pair is not used if this focal length is the
    shortest or longest plausible one. The result is the median over the pairs, weighted by their numbers of
    matches.

    Args:
        camera: Index of the camera.
        pairs: Verified matches of image pairs; one image of each pair belongs to the camera, the other image
            to a camera of known focal length.
        focals: Focal length of each camera, in pixels at keypoint detection resolution. (K,).
        camera_groups: Image sizes, and camera of each image.
        options: Plausible range, and number of focal lengths to try.

    Returns:
        The focal length, in pixels at keypoint detection resolution; without usable pairs, the focal length
        for the assumed field of view.
    """
    longer_side = float(camera_groups.longer_sides[camera])
    shortest, longest = options.min_focal_length_ratio, options.max_focal_length_ratio
    count = options.num_candidates
    candidates = longer_side * np.geomspace(shortest, longest, count)
    by_pair, weights = [], []
    for pair in pairs:
        first, second = pair.first, pair.second
        F = _to_pixels(second, camera_groups).T @ pair.fundamental @ _to_pixels(first, camera_groups)
        if camera_groups.camera_ids[second] != camera:
            first, second, F = second, first, F.T
        known_focal = focals[camera_groups.camera_ids[first]]
        K_diagonals = np.stack([candidates, candidates, np.ones(count)], axis=1)
        essential = K_diagonals[:, :, None] * F * [known_focal, known_focal, 1.0]
        large, small, _ = np.linalg.svd(essential, compute_uv=False).T
        best = int(np.argmax(small / large))
        if 0 < best < count - 1:
            by_pair.append(candidates[best])
            weights.append(len(pair.indices))
    if not by_pair:
        return prior_focal(longer_side, options)
    return weighted_quantiles(np.array(by_pair), np.array(weights, np.float64), (0.5,))[0]


def _to_pixels(image_id: int, camera_groups: CameraGroups) -> Array:
    """Return the matrix that converts homogeneous image coordinates to full-resolution pixels. (3, 3).

    The input coordinates are relative to the image center, in pixels at keypoint detection resolution.
    """
    (x, y), scale = camera_groups.sizes[image_id] / 2, camera_groups.pixel_sizes[image_id]
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])


def _pair_focal(centered_keypoints: Sequence[Array], pair: PairMatches, seed: int) -> tuple[float, int]:
    """Estimate the focal length shared by the two images of a pair, by RANSAC.

    Returns:
        The focal length, in pixels at keypoint detection resolution, and the number of inliers.
    """
    first = centered_keypoints[pair.first][pair.indices[:, 0]]
    second = centered_keypoints[pair.second][pair.indices[:, 1]]
    # Points of wide-angle images that a pinhole camera cannot show are NaN.
    shown = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    if shown.sum() < MIN_NUM_MATCHES:
        return 0.0, 0
    image_pair, info = poselib.estimate_shared_focal_relative_pose(
        first[shown],
        second[shown],
        np.zeros(2),
        {"max_epipolar_error": 2.0, "max_iterations": 2000, "min_iterations": 100, "seed": seed},
        {},
    )
    return image_pair.camera1.focal(), info["num_inliers"]


def weighted_quantiles(values: Array, weights: Array, levels: Sequence[float]) -> tuple[float, ...]:
    """Compute weighted quantiles of samples.

    The quantile at a level is the smallest sample for which this sample and all smaller samples together have
    at least that fraction of the total weight.

    Args:
        values: Samples. (n,).
        weights: Positive weights of the samples. (n,).
        levels: Fractions of the total weight, from 0 to 1.

    Returns:
        The quantile at each level.
    """
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    indices = np.searchsorted(cumulative, np.array(levels) * cumulative[-1])
    return tuple(float(values[order][min(index, len(values) - 1)]) for index in indices)
