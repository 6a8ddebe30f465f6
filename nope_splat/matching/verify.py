"""Geometric verification: the matches of a pair that agree with one epipolar geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import poselib
from numpy.typing import NDArray

Array = NDArray[np.float64]

FUNDAMENTAL_ITERATIONS = {"min_iterations": 100, "max_iterations": 10_000, "success_prob": 0.9999}
# Whether one homography explains nearly all matches shows after few samples.
HOMOGRAPHY_ITERATIONS = {"min_iterations": 50, "max_iterations": 200}


@dataclass(frozen=True)
class EpipolarGeometry:
    """What RANSAC found for one pair."""

    inliers: NDArray[np.bool_]
    """Which of the matches agree. (M,)."""
    fundamental: Array
    """Fundamental matrix F with x_second^T F x_first = 0. (3, 3)."""
    homography_ratio: float
    """Share of the inliers that one homography explains."""


def verify_matches(
    xy_first: Array, xy_second: Array, max_error: float, min_matches: int
) -> EpipolarGeometry | None:
    """Estimate the epipolar geometry of a pair by RANSAC with local optimisation (poselib), seeded.

    Args:
        xy_first: Pixel coordinates of the matches in the first photograph. (M, 2).
        xy_second: Pixel coordinates in the second photograph. (M, 2).
        max_error: Largest distance from the epipolar geometry (Sampson error), in pixels.
        min_matches: Fewest inliers that count as a verified pair.

    Returns:
        The geometry, or None if too few matches agree with any.
    """
    if len(xy_first) < min_matches:
        return None
    options = {"max_epipolar_error": max_error, **FUNDAMENTAL_ITERATIONS}
    fundamental, info = poselib.estimate_fundamental(xy_first, xy_second, options, {})
    inliers = np.array(info["inliers"], dtype=bool)
    if inliers.sum() < min_matches:
        return None
    # A homography's error has two dimensions where the epipolar error has one, and counts noise of both
    # photographs in one of them.
    options = {"max_reproj_error": 2 * max_error, **HOMOGRAPHY_ITERATIONS}
    _, info = poselib.estimate_homography(xy_first[inliers], xy_second[inliers], options, {})
    return EpipolarGeometry(inliers, fundamental, info["num_inliers"] / int(inliers.sum()))
