"""Geometric verification: the matches of a pair that agree with one epipolar geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import poselib
from numpy.typing import NDArray

from nope_splat.matching.options import MatchingSettings
from nope_splat.scene.features import Keypoints, PairMatches

# All matches are alike to RANSAC: with the most distinctive ones first (PROSAC) it takes as many samples,
# since the ratio test has left few wrong ones.
CONFIDENCE = 0.9999
"""Probability with which the samples find a geometry."""
CAUTION = 3.0
"""How many times the samples of the formula are taken, since noise spoils some that have no outliers."""
FEWEST_SAMPLES, MOST_SAMPLES = 100, 10_000
SPREAD = 50
"""Matches among which a geometry is sought first: nearly all right, they determine it as well as all."""
PLAIN = 0.8
"""Share of inliers among these from which the rest need not be searched."""
FEWEST_PLAIN_SAMPLES = 20
"""Fewest samples there: chance seldom spoils so many."""
HOMOGRAPHY_SPREAD, HOMOGRAPHY_SAMPLES = 100, 200
"""Matches, and most samples of them, among which a homography is sought: whether one explains nearly all
shows soon."""
# RANSAC refines its best geometry in any case; poselib can do so once more.
UNREFINED = {"max_iterations": 0}


def verify_pair(
    first: int,
    second: int,
    indices: NDArray[np.int64],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
) -> PairMatches | None:
    """Estimate the epipolar geometry of a pair by RANSAC with local optimization (poselib), seeded.

    Args:
        first: Index of one image.
        second: Index of the other image, in any order.
        indices: Candidate matches: keypoint indices in the first and the second image. (M, 2).
        keypoints: Keypoints of all images.
        settings: Largest error and fewest matches of a verified pair.

    Returns:
        The matches that agree, or None if they are too few.
    """
    if len(indices) < settings.min_matches:
        return None
    # Keypoints are as accurate as the pixels in which they were found: measure errors in those.
    unit = max(keypoints[first].pixel_size, keypoints[second].pixel_size)
    xy_first = keypoints[first].xy[indices[:, 0]] / unit
    xy_second = keypoints[second].xy[indices[:, 1]] / unit

    fundamental, inliers = _fundamental(xy_first, xy_second, settings)
    count = np.count_nonzero(inliers)
    if count < settings.min_matches:
        return None
    homography_ratio = _homography_ratio(xy_first[inliers], xy_second[inliers], settings)

    to_unit = np.array([1 / unit, 1 / unit, 1])
    fundamental = fundamental * to_unit[:, None] * to_unit
    fundamental /= np.linalg.norm(fundamental)
    indices = indices[inliers]
    if first > second:
        first, second = second, first
        indices, fundamental = np.ascontiguousarray(indices[:, ::-1]), fundamental.T
    return PairMatches(first, second, indices, fundamental, homography_ratio)


def samples_to_find(share: float) -> int:
    """Samples of seven matches among which one without outliers is all but certain.

    A geometry with fewer inliers than are asked for is of no use, so that hopeless pairs, with hardly more
    matches than these, need not be searched for longer than it takes to find so many.

    Args:
        share: Inliers among the matches.

    Returns:
        Their number, at most `MOST_SAMPLES`.
    """
    if share >= 1:
        return FEWEST_SAMPLES
    samples = CAUTION * math.log(1 - CONFIDENCE) / math.log1p(-(share**7))
    return min(max(math.ceil(samples), FEWEST_SAMPLES), MOST_SAMPLES)


def _fundamental(
    xy_first: NDArray[np.float64], xy_second: NDArray[np.float64], settings: MatchingSettings
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fundamental matrix (3, 3) of matches (M, 2), and which of these agree with it. (M,)."""
    count = len(xy_first)
    error = {"max_epipolar_error": settings.max_epipolar_error}
    search = error | {
        "success_prob": CONFIDENCE,
        "dyn_num_trials_mult": CAUTION,
        "seed": settings.seed,
    }
    found = None
    if count > SPREAD:
        some = _spread(count, SPREAD)
        options = search | {"min_iterations": FEWEST_PLAIN_SAMPLES, "max_iterations": samples_to_find(PLAIN)}
        start, info = poselib.estimate_fundamental(xy_first[some], xy_second[some], options, UNREFINED)
        if info["num_inliers"] >= PLAIN * SPREAD:
            # Without samples, but with a geometry to start from, RANSAC refines that on all matches.
            options = error | {"max_iterations": 0}
            found = poselib.estimate_fundamental(xy_first, xy_second, options, UNREFINED, start)
    if found is None:
        most = samples_to_find(settings.min_matches / count)
        options = search | {"min_iterations": FEWEST_SAMPLES, "max_iterations": most}
        found = poselib.estimate_fundamental(xy_first, xy_second, options, {})
    fundamental, info = found
    return fundamental, np.array(info["inliers"], dtype=bool)


def _homography_ratio(
    xy_first: NDArray[np.float64], xy_second: NDArray[np.float64], settings: MatchingSettings
) -> float:
    """Share of matches (M, 2) that one homography, sought among some of them, explains."""
    # The error of a homography has two dimensions and the noise of both images, so it may be larger.
    error = 2 * settings.max_epipolar_error
    chosen = _spread(len(xy_first), HOMOGRAPHY_SPREAD)
    # Its RHO does not refine samples: enough for a share, in half of the time.
    homography, _ = cv2.findHomography(
        xy_first[chosen], xy_second[chosen], cv2.RHO, error, maxIters=HOMOGRAPHY_SAMPLES
    )
    if homography is None:
        return 0.0
    mapped = cv2.perspectiveTransform(xy_first[None], homography)[0]
    return float(np.mean(((mapped - xy_second) ** 2).sum(axis=1) < error**2))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most so many of `count` matches, evenly spread: keypoints are in order of strength."""
    chosen = min(count, most)
    return np.arange(chosen) * count // chosen
