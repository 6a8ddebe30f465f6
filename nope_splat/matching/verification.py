"""Geometric verification: epipolar geometry and inlier matches of an image pair."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import poselib
from numpy.typing import NDArray

from nope_splat.geometry.division import division_errors
from nope_splat.geometry.epipolar import sampson_errors
from nope_splat.matching.options import MatchingSettings, TwoViewGeometryOptions
from nope_splat.matching.wide_angle import estimate_division_fundamental
from nope_splat.scene.features import Keypoints, PairMatches

# PROSAC, which samples the most distinctive matches first, is not used: after the ratio test, few matches are
# wrong, and PROSAC needs as many trials as RANSAC.

NO_REFINEMENT = {"max_iterations": 0}
"""Options that disable poselib's final refinement, because RANSAC's local optimization has refined the model
already."""


def verify_pair(
    first: int,
    second: int,
    indices: NDArray[np.int64],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
) -> PairMatches | None:
    """Verify the matches of an image pair by estimating its epipolar geometry with RANSAC (poselib).

    Args:
        first: Index of one image.
        second: Index of the other image; may be smaller than `first`.
        indices: Putative matches: keypoint indices in the first and the second image. (M, 2).
        keypoints: Keypoints of all images.
        settings: Maximum epipolar error, minimum number of matches, and RANSAC options.

    Returns:
        The pair with its inlier matches and fundamental matrix, the smaller image index first; None if there
        are fewer than `settings.min_matches` inliers.
    """
    if len(indices) < settings.min_matches:
        return None
    # The accuracy of keypoints depends on the resolution at which they were detected, so measure errors in
    # those pixels.
    pixel_size = max(keypoints[first].pixel_size, keypoints[second].pixel_size)
    xy_first = keypoints[first].xy[indices[:, 0]] / pixel_size
    xy_second = keypoints[second].xy[indices[:, 1]] / pixel_size

    is_wide = keypoints[first].division or keypoints[second].division
    if is_wide:
        fundamental, inliers = estimate_division_fundamental(
            keypoints[first], keypoints[second], indices, settings
        )
        xy_first, xy_second = (
            features.division_lens.pinhole_pixels(features.xy[index]) / pixel_size
            for features, index in zip((keypoints[first], keypoints[second]), indices.T, strict=True)
        )
    else:
        fundamental, inliers = _estimate_fundamental(xy_first, xy_second, settings)
        scale = np.array([1 / pixel_size, 1 / pixel_size, 1])
        fundamental = fundamental * scale[:, None] * scale
        fundamental /= np.linalg.norm(fundamental)
    if np.count_nonzero(inliers) < settings.min_matches:
        return None
    homography_ratio = _homography_ratio(xy_first[inliers], xy_second[inliers], settings)
    indices = indices[inliers]
    if first > second:
        first, second = second, first
        indices, fundamental = np.ascontiguousarray(indices[:, ::-1]), fundamental.T
    return PairMatches(first, second, indices, fundamental, homography_ratio)


def epipolar_errors(
    pair: PairMatches, indices: NDArray[np.int64], keypoints: Sequence[Keypoints]
) -> NDArray[np.floating]:
    """Compute the Sampson errors of matches for the fundamental matrix of an image pair.

    Args:
        pair: The verified pair.
        indices: Matches: keypoint indices in the pair's first and second image. (M, 2).
        keypoints: Keypoints of all images.

    Returns:
        Sampson errors in pixels of the images in which keypoints were detected. (M,).
    """
    first, second = keypoints[pair.first], keypoints[pair.second]
    if first.division or second.division:
        lenses, xy = (
            (first.division_lens, second.division_lens),
            (first.xy[indices[:, 0]], second.xy[indices[:, 1]]),
        )
        to_first, to_second = (lens.pixels_from_homogeneous for lens in lenses)
        errors = division_errors(
            (lenses[0].homogeneous(xy[0]), lenses[1].homogeneous(xy[1])),
            (lenses[0].gradient(xy[0]), lenses[1].gradient(xy[1])),
            to_second.T @ pair.fundamental @ to_first,
            (lenses[0].half_diagonal, lenses[1].half_diagonal),
        )
        return errors / max(first.pixel_size, second.pixel_size)
    xy_first, xy_second = (
        np.concatenate([features.xy[index], np.ones((len(index), 1))], axis=1)
        for features, index in zip((first, second), indices.T, strict=True)
    )
    return sampson_errors(xy_first, xy_second, pair.fundamental, 1 / first.pixel_size, 1 / second.pixel_size)


def num_trials(inlier_ratio: float, options: TwoViewGeometryOptions) -> int:
    """Compute the number of RANSAC trials that find a sample of seven inliers with high probability.

    The number is m log(1 - c) / log(1 - r^7), with the multiplier m (`trial_multiplier`), the confidence c
    and the inlier ratio r. If a pair has hardly more putative matches than the required number of inliers,
    nearly all of them must be inliers, and few trials suffice to accept or reject the pair.

    Args:
        inlier_ratio: Smallest fraction of inliers, 0 to 1, for which the geometry has to be found.
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
    """Estimate the fundamental matrix of an image pair and its inlier matches.

    If nearly all matches in a small subset are inliers, the geometry of the subset is refined on all matches.
    Otherwise, RANSAC runs on all matches.

    Args:
        xy_first: Positions of the matches in the first image, in pixels of the image in which keypoints were
            detected. (M, 2).
        xy_second: Positions of the matches in the second image, in the same unit. (M, 2).
        settings: Maximum epipolar error, minimum number of matches, and RANSAC options.

    Returns:
        Fundamental matrix F (3, 3) with x_second^T F x_first = 0, and True for inlier matches (M,).
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
            "max_iterations": num_trials(options.min_subset_inlier_ratio, options),
        }
        initial, info = poselib.estimate_fundamental(
            xy_first[subset], xy_second[subset], ransac | limits, NO_REFINEMENT
        )
        if info["num_inliers"] >= options.min_subset_inlier_ratio * options.subset_size:
            # With an initial geometry and no iterations, RANSAC only refines the initial geometry on all
            # matches.
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
    """Compute the fraction of matches that are inliers of a homography.

    The homography is estimated from a subset of the matches.

    Args:
        xy_first: Positions of the matches in the first image, in pixels of the image in which keypoints were
            detected. (M, 2).
        xy_second: Positions of the matches in the second image, in the same unit. (M, 2).
        settings: Maximum epipolar error and RANSAC options.

    Returns:
        Inlier ratio over all matches, 0 to 1; 0 if no homography was found.
    """
    options = settings.two_view_geometry
    # A homography error has two dimensions and contains the noise of both images, so its limit is larger than
    # that of epipolar errors.
    max_error = 2 * settings.max_epipolar_error
    # The points of wide-angle images that a pinhole camera cannot show are NaN.
    shown = np.isfinite(xy_first).all(1) & np.isfinite(xy_second).all(1)
    if shown.sum() < max(4, settings.min_matches):
        return 0.0
    xy_first, xy_second = xy_first[shown], xy_second[shown]
    subset = _evenly_spaced(len(xy_first), options.homography_subset_size)
    # OpenCV's RHO method does not refine its result, which is accurate enough for a ratio and takes half the
    # time.
    homography, _ = cv2.findHomography(
        xy_first[subset], xy_second[subset], cv2.RHO, max_error, maxIters=options.max_num_homography_trials
    )
    if homography is None:
        return 0.0
    mapped = cv2.perspectiveTransform(xy_first[None], homography)[0]
    return float(np.mean(((mapped - xy_second) ** 2).sum(axis=1) < max_error**2))


def _evenly_spaced(count: int, max_count: int) -> NDArray[np.int64]:
    """Return at most `max_count` evenly spaced indices below `count`.

    Keypoints are sorted by strength, so the first indices would be a biased sample.
    """
    num_indices = min(count, max_count)
    return np.arange(num_indices) * count // num_indices
