"""Detection of degenerate image sets: a purely rotating camera, or a planar scene.

In both cases, a homography explains all matches of each pair. If the camera only rotates by R, the homography
is K R K^-1 with the same calibration matrix K for all pairs (Hartley and Zisserman, section 8.4), and no
depth can be reconstructed. A planar scene can be reconstructed, but only oblique views determine the focal
length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import nearest_rotation
from nope_splat.geometry.robust import cauchy_weight
from nope_splat.scene.features import PairMatches
from nope_splat.sfm.mapper_options import DegeneracyOptions, FocalEstimationOptions
from nope_splat.utils.typing import Array


def is_planar_or_rotation(
    pairs: Sequence[PairMatches], options: DegeneracyOptions = DegeneracyOptions()
) -> bool:
    """Decide whether one homography per pair explains nearly all matches: pure rotation or a planar scene.

    Args:
        pairs: Verified matches of at least one pair.
        options: Options; `min_inlier_ratio` is the minimum fraction of all matches that must be inliers of
            the homographies.
    """
    explained = sum(pair.homography_ratio * len(pair.indices) for pair in pairs)
    return explained >= options.min_inlier_ratio * sum(len(pair.indices) for pair in pairs)


def is_pure_rotation(
    centered_keypoints: Sequence[Array],
    pairs: Sequence[PairMatches],
    longer_side: float,
    options: DegeneracyOptions = DegeneracyOptions(),
    focal_options: FocalEstimationOptions = FocalEstimationOptions(),
) -> bool:
    """Decide whether rotations of a camera with a common focal length explain nearly all matches.

    The focal length at which rotations fit the matches best is searched for in the plausible range. If the
    best fit is at an end of the range, the result is False: translation parallel to a planar scene resembles
    rotation at an infinite focal length.

    Args:
        centered_keypoints: Keypoints of each image relative to the image center, in pixels at keypoint
            detection resolution. (K, 2) each.
        pairs: Verified matches of at least one pair.
        longer_side: Longer side of the images, in pixels at keypoint detection resolution.
        options: Thresholds, and number of focal lengths to try.
        focal_options: Range of plausible focal lengths.
    """
    rng = np.random.default_rng(0)
    matches: list[tuple[Array, Array]] = []
    for pair in sorted(pairs, key=lambda pair: -len(pair.indices))[: options.max_num_pairs]:
        sample = rng.permutation(len(pair.indices))[: options.max_num_matches]
        first, second = pair.indices[sample].T
        xy_first, xy_second = centered_keypoints[pair.first][first], centered_keypoints[pair.second][second]
        shown = np.isfinite(xy_first).all(1) & np.isfinite(xy_second).all(1)  # NaN in wide-angle images
        matches.append((xy_first[shown], xy_second[shown]))

    def errors(log_focal: float) -> Array:
        focal = float(np.exp(log_focal))
        return np.concatenate([_rotation_errors(first, second, focal, options) for first, second in matches])

    def cost(log_focal: float) -> float:
        return float(np.mean(np.minimum(errors(log_focal) / options.max_error, 1) ** 2))

    shortest, longest = focal_options.min_focal_length_ratio, focal_options.max_focal_length_ratio
    count = options.num_focal_candidates
    candidates = np.log(np.geomspace(shortest, longest, count) * longer_side)
    best = int(np.argmin([cost(candidate) for candidate in candidates]))
    if best in (0, count - 1):
        return False
    # Neighboring candidates differ by eight percent, which displaces matches by pixels, so refine the best.
    fine = np.linspace(candidates[best - 1], candidates[best + 1], count)
    best_log_focal = fine[int(np.argmin([cost(candidate) for candidate in fine]))]
    return bool(np.mean(errors(best_log_focal) < options.max_error) >= options.min_inlier_ratio)


def _rotation_errors(first: Array, second: Array, focal: float, options: DegeneracyOptions) -> Array:
    """Fit the rotation between two images robustly to their matches, and compute the transfer errors.

    Args:
        first: Matched keypoints in the first image, relative to the image center, in pixels. (M, 2).
        second: Matched keypoints in the second image, relative to the image center, in pixels. (M, 2).
        focal: Focal length of both images, in pixels.
        options: Width of the robust loss, and number of reweighting steps.

    Returns:
        Distance in the second image between the rotated first keypoint and the second keypoint of each match,
        in pixels. (M,).
    """
    rays_first, rays_second = (
        np.concatenate([xy, np.full((len(xy), 1), focal)], axis=1) for xy in (first, second)
    )
    unit_first = rays_first / np.linalg.norm(rays_first, axis=1, keepdims=True)
    unit_second = rays_second / np.linalg.norm(rays_second, axis=1, keepdims=True)
    weights, errors = np.ones(len(first)), np.zeros(len(first))
    for _ in range(options.num_reweighting_steps):  # reweighting reduces the influence of wrong matches
        rotated = rays_first @ nearest_rotation((unit_second * weights[:, None]).T @ unit_first).T
        errors = np.linalg.norm(project(rotated, focal, min_depth=1e-9) - second, axis=1)
        weights = cauchy_weight(errors**2, options.max_error)
    return errors
