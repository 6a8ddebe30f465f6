"""Geometric verification: the inlier matches of a pair and its epipolar geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import poselib
from numpy.typing import NDArray

from nope_splat.geometry.epipolar import sampson_errors
from nope_splat.matching.options import MatchingSettings, TwoViewGeometryOptions
from nope_splat.scene.features import Keypoints, PairMatches

# PROSAC, which samples the most distinctive matches first, needs as many trials here: the ratio test leaves
# few wrong matches.

NO_REFINEMENT = {"max_iterations": 0}
"""Bundle adjustment options of poselib: RANSAC's local optimization has refined the model already."""


def verify_pair(
    first: int,
    second: int,
    indices: NDArray[np.int64],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
) -> PairMatches | None:
    """Estimate the epipolar geometry of a pair by seeded RANSAC with local optimization (poselib).

    Args:
        first: Index of one image.
        second: Index of the other image; may be smaller than `first`.
        indices: Putative matches: keypoint indices in the first and the second image. (M, 2).
        keypoints: Keypoints of all images.
        settings: Maximum epipolar error, minimum number of matches, and RANSAC options.

    Returns:
        The inlier matches, or None if there are fewer than `settings.min_matches`.
    """
    if len(indices) < settings.min_matches:
        return None
    # Keypoints are as accurate as the pixels in which they were detected: measure errors in those.
    pixel_size = max(keypoints[first].pixel_size, keypoints[second].pixel_size)
    xy_first = keypoints[first].xy[indices[:, 0]] / pixel_size
    xy_second = keypoints[second].xy[indices[:, 1]] / pixel_size

    fundamental, inliers = _estimate_fundamental(xy_first, xy_second, settings)
    if np.count_nonzero(inliers) < settings.min_matches:
        return None
    homography_ratio = _homography_ratio(xy_first[inliers], xy_second[inliers], settings)

    scale = np.array([1 / pixel_size, 1 / pixel_size, 1])
    fundamental = fundamental * scale[:, None] * scale
    fundamental /= np.linalg.norm(fundamental)
    indices = indices[inliers]
    if first > second:
        first, second = second, first
        indices, fundamental = np.ascontiguousarray(indices[:, ::-1]), fundamental.T
    return PairMatches(first, second, indices, fundamental, homography_ratio)


def epipolar_errors(
    pair: PairMatches, indices: NDArray[np.int64], keypoints: Sequence[Keypoints]
) -> NDArray[np.floating]:
    """Compute Sampson errors of matches under the fundamental matrix of a pair.

    Args:
        pair: The pair.
        indices: Keypoint indices in its first and second image. (M, 2).
        keypoints: Keypoints of all images.

    Returns:
        Feature pixels. (M,).
    """
    first, second = keypoints[pair.first], keypoints[pair.second]
    xy_first, xy_second = (
        np.concatenate([features.xy[index], np.ones((len(index), 1))], axis=1)
        for features, index in zip((first, second), indices.T, strict=True)
    )
    return sampson_errors(xy_first, xy_second, pair.fundamental, 1 / first.pixel_size, 1 / second.pixel_size)


def num_trials(inlier_ratio: float, options: TwoViewGeometryOptions) -> int:
    """Compute the number of RANSAC trials that find a sample of seven inliers with high probability.

    A geometry with fewer inliers than required is useless. A pair with hardly more matches than required can
    therefore be rejected after the few trials that its required inlier ratio takes.

    Args:
        inlier_ratio: Smallest useful fraction of inliers among the matches.
        options: Confidence, and limits of the number of trials.

    Returns:
        The number of trials, between `min_num_trials` and `max_num_trials`.
    """
    if inlier_ratio >= 1:
        return options.min_num_trials
    trials = options.trial_multiplier * math.log(1 - options.confidence) / math.log1p(-(inlier_ratio**7))
    return min(max(math.ceil(trials), options.min_num_trials), options.max_num_trials)


def _estimate_fundamental(
    xy_first: NDArray[np.floating], xy_second: NDArray[np.floating], settings: MatchingSettings
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Estimate the fundamental matrix (3, 3) of matches (M, 2), and which of them are inliers (M,).

    If RANSAC on a small subset finds nearly all inliers, its geometry is refined on all matches; else RANSAC
    starts over with all matches.
    """
    num_matches, options = len(xy_first), settings.two_view_geometry
    max_error = {"max_epipolar_error": settings.max_epipolar_error}
    ransac = max_error | {
        "success_prob": options.confidence,
        "dyn_num_trials_mult": options.trial_multiplier,
        "seed": settings.seed,
    }
    estimate = None
    if num_matches > options.subset_size:
        subset = _evenly_spaced(num_matches, options.subset_size)
        limits = {
            "min_iterations": options.min_num_subset_trials,
            "max_iterations": num_trials(options.easy_inlier_ratio, options),
        }
        initial, info = poselib.estimate_fundamental(
            xy_first[subset], xy_second[subset], ransac | limits, NO_REFINEMENT
        )
        if info["num_inliers"] >= options.easy_inlier_ratio * options.subset_size:
            # Without iterations, but with an initial geometry, RANSAC refines that on all matches.
            refine = max_error | {"max_iterations": 0}
            estimate = poselib.estimate_fundamental(xy_first, xy_second, refine, NO_REFINEMENT, initial)
    if estimate is None:
        limits = {
            "min_iterations": options.min_num_trials,
            "max_iterations": num_trials(settings.min_matches / num_matches, options),
        }
        estimate = poselib.estimate_fundamental(xy_first, xy_second, ransac | limits, {})
    fundamental, info = estimate
    return fundamental, np.array(info["inliers"], dtype=bool)


def _homography_ratio(
    xy_first: NDArray[np.floating], xy_second: NDArray[np.floating], settings: MatchingSettings
) -> float:
    """Estimate a homography from a subset of matches (M, 2); return its inlier ratio over all of them."""
    options = settings.two_view_geometry
    # A homography error has two dimensions and the noise of both images, so it may be larger.
    max_error = 2 * settings.max_epipolar_error
    subset = _evenly_spaced(len(xy_first), options.homography_subset_size)
    # RHO does not refine its samples: accurate enough for a ratio, in half the time.
    homography, _ = cv2.findHomography(
        xy_first[subset], xy_second[subset], cv2.RHO, max_error, maxIters=options.max_num_homography_trials
    )
    if homography is None:
        return 0.0
    mapped = cv2.perspectiveTransform(xy_first[None], homography)[0]
    return float(np.mean(((mapped - xy_second) ** 2).sum(axis=1) < max_error**2))


def _evenly_spaced(count: int, max_count: int) -> NDArray[np.int64]:
    """Return at most `max_count` evenly spaced indices below `count`.

    Keypoints are sorted by strength, so that the first ones would be a biased sample.
    """
    num_indices = min(count, max_count)
    return np.arange(num_indices) * count // num_indices
