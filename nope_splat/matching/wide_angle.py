"""Wide-angle lenses: recognition from verified pairs, and epipolar geometry with strong distortion.

A fundamental matrix relates the pixels of pinhole cameras. With a wide-angle lens it holds only for a part of
the image. The division model (see `geometry.division`) describes such lenses by one coefficient, without the
focal length.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.division import DivisionLens, division_errors
from nope_splat.matching.options import MatchingSettings
from nope_splat.scene.features import Keypoints, PairMatches

BATCH_SIZE = 100
"""Number of RANSAC trials that are computed at once."""
NUM_REFINEMENTS = 5
"""Number of reweighted linear fits that refine a fundamental matrix on its inliers."""


def find_wide_angle_lenses(
    keypoints: Sequence[Keypoints],
    pairs: Sequence[PairMatches],
    match: Callable[[int, int], NDArray[np.int64]],
    settings: MatchingSettings,
) -> dict[tuple[int, int], float]:
    """Recognize wide-angle lenses, and estimate their coefficients in the division model.

    All images of the same size are assumed to have the same lens. A linear fit to the inliers of the
    strongest pairs shows whether distortion bends their epipolar lines. If so, the coefficient with the most
    inliers among all putative matches of these pairs is found.

    Args:
        keypoints: Keypoints of each image, with image sizes.
        pairs: Pairs that were verified without distortion.
        match: Function that takes two image indices and returns putative matches: keypoint indices in the
            first and the second image (M, 2).
        settings: Options of matching.

    Returns:
        Coefficient of each image size (width, height); image sizes without a wide-angle lens are omitted.
    """
    options = settings.wide_angle
    by_size: dict[tuple[int, int], list[PairMatches]] = defaultdict(list)
    for pair in pairs:
        size = keypoints[pair.first].image_size
        if size is not None and size == keypoints[pair.second].image_size:
            by_size[size].append(pair)
    lenses = {}
    for size, pairs_of_size in by_size.items():
        strongest = sorted(pairs_of_size, key=lambda pair: -len(pair.indices))[: options.max_num_pairs]
        coefficients = [_bend_of_inliers(pair, keypoints, size) for pair in strongest]
        if np.median(coefficients) > options.max_inlier_coefficient:
            continue
        matches = [(pair.first, pair.second, match(pair.first, pair.second)) for pair in strongest]
        coefficient = _best_coefficient(matches, keypoints, settings)
        if coefficient < 0:
            lenses[size] = coefficient
    return lenses


def with_lenses(keypoints: Sequence[Keypoints], lenses: dict[tuple[int, int], float]) -> list[Keypoints]:
    """Set the division coefficients of keypoints.

    Args:
        keypoints: Keypoints of each image, with image sizes.
        lenses: Coefficient of each image size, from `find_wide_angle_lenses`.
    """
    return [
        replace(features, division=lenses.get(features.image_size or (0, 0), 0.0)) for features in keypoints
    ]


def estimate_division_fundamental(
    first: Keypoints,
    second: Keypoints,
    indices: NDArray[np.int64],
    settings: MatchingSettings,
    max_num_trials: int | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Estimate the fundamental matrix of a pair of wide-angle images by RANSAC (seven-point algorithm).

    Args:
        first: Keypoints of the first image, with division coefficients.
        second: Keypoints of the second image.
        indices: Putative matches: keypoint indices in the first and the second image. (M, 2).
        settings: Maximum epipolar error, and RANSAC options.
        max_num_trials: Maximum number of trials; by default that of the options.

    Returns:
        Fundamental matrix for homogeneous pixel coordinates without distortion (3, 3), and True for inlier
        matches (M,).
    """
    lenses = first.division_lens, second.division_lens
    xy = first.xy[indices[:, 0]], second.xy[indices[:, 1]]
    points = lenses[0].homogeneous(xy[0]), lenses[1].homogeneous(xy[1])
    gradients = lenses[0].gradient(xy[0]), lenses[1].gradient(xy[1])
    scales = lenses[0].half_diagonal, lenses[1].half_diagonal
    max_error = settings.max_epipolar_error * max(first.pixel_size, second.pixel_size)

    def errors(F: NDArray[np.floating]) -> NDArray[np.floating]:
        return division_errors(points, gradients, F, scales)

    options, rng = settings.two_view_geometry, np.random.default_rng(settings.seed)
    limit = options.max_num_trials if max_num_trials is None else max_num_trials
    best, best_score, trials, needed = np.zeros((3, 3)), np.inf, 0, float(limit)
    while trials < min(limit, needed):
        trials += BATCH_SIZE
        samples = rng.random((BATCH_SIZE, len(indices))).argpartition(7, axis=1)[:, :7]
        candidates = _seven_point(points[0][samples], points[1][samples])
        if not len(candidates):
            continue
        scores = (np.minimum(errors(candidates), max_error) ** 2).sum(-1)
        if scores.min() >= best_score:
            continue
        best, best_score = candidates[scores.argmin()], float(scores.min())
        refined = _refine(best, points, errors, max_error)
        score = float((np.minimum(errors(refined), max_error) ** 2).sum())
        if score < best_score:
            best, best_score = refined, score
        good = float(np.mean(errors(best) < max_error)) ** 7
        if good > 0:
            needed = math.log(1 - options.confidence) / math.log1p(-min(good, 1 - 1e-9))
    inliers = errors(best) < max_error if best.any() else np.zeros(len(indices), bool)
    to_first, to_second = (np.linalg.inv(lens.pixels_from_homogeneous) for lens in lenses)
    F = to_second.T @ best @ to_first
    return F / max(float(np.linalg.norm(F)), 1e-300), inliers


def _seven_point(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compute fundamental matrices from samples of seven matches (Hartley and Zisserman, section 11.1.2).

    Args:
        first: Homogeneous coordinates in the first image. (B, 7, 3).
        second: Homogeneous coordinates in the second image. (B, 7, 3).

    Returns:
        Matrices F with second^T F first = 0 and determinant zero, one to three per sample. (C, 3, 3).
    """
    system = (second[..., :, None] * first[..., None, :]).reshape(*first.shape[:2], 9)
    # The two eigenvectors of the smallest eigenvalues span the null space.
    _, vectors = np.linalg.eigh(np.swapaxes(system, 1, 2) @ system)
    one, other = (vectors[:, :, column].reshape(-1, 3, 3) for column in (0, 1))
    # det(other + t (one - other)) is a cubic polynomial in t; four values determine its coefficients.
    nodes = np.array([-1.0, 0.0, 1.0, 2.0])
    mixed = other[:, None] + nodes[:, None, None] * (one - other)[:, None]
    coefficients = np.linalg.solve(np.vander(nodes), np.linalg.det(mixed).T).T
    companion = np.zeros((len(one), 3, 3))
    leading = np.where(np.abs(coefficients[:, :1]) > 1e-12, coefficients[:, :1], 1e-12)
    companion[:, 0], companion[:, [1, 2], [0, 1]] = -coefficients[:, 1:] / leading, 1.0
    roots = np.linalg.eigvals(companion)
    sample, column = np.nonzero(np.abs(roots.imag) < 1e-9)
    t = roots.real[sample, column, None, None]
    return other[sample] + t * (one - other)[sample]


def _refine(
    F: NDArray[np.floating],
    points: Sequence[NDArray[np.floating]],
    errors: Callable[[NDArray[np.floating]], NDArray[np.floating]],
    max_error: float,
) -> NDArray[np.floating]:
    """Refine a fundamental matrix on its inliers by linear fits, weighted so that residuals are in pixels.

    Args:
        F: Fundamental matrix. (3, 3).
        points: Homogeneous coordinates in the first and in the second image. (n, 3) each.
        errors: Function that computes the errors of all matches in pixels.
        max_error: Inlier threshold in pixels.

    Returns:
        Matrix of rank two. (3, 3).
    """
    system = (points[1][:, :, None] * points[0][:, None, :]).reshape(-1, 9)
    for _ in range(NUM_REFINEMENTS):
        values = errors(F)
        residuals = np.abs(system @ F.ravel())
        inliers = values < max_error
        if inliers.sum() < 8:
            return F
        weights = values[inliers] / np.maximum(residuals[inliers], 1e-300)
        weighted = system[inliers] * weights[:, None]
        F = np.linalg.eigh(weighted.T @ weighted)[1][:, 0].reshape(3, 3)
        null = np.linalg.eigh(F.T @ F)[1][:, :1]
        F = F - F @ null @ null.T  # the nearest matrix of rank two
    return F


def _bend_of_inliers(pair: PairMatches, keypoints: Sequence[Keypoints], size: tuple[int, int]) -> float:
    """Estimate the division coefficient that fits the inliers of a pair best, to first order.

    To first order in c, the residual of a match is second^T F first + c second^T (dF) first, where the
    derivatives of the homogeneous coordinates by c are (0, 0, r^2) relative to the image center. The entries
    of F and the coefficient c are fitted together by linear least squares, with residuals in pixels.

    Args:
        pair: A pair that was verified without distortion.
        keypoints: Keypoints of all images.
        size: Width and height of both images in pixels.
    """
    straight = DivisionLens(size, 0.0)
    first, second = (
        straight.homogeneous(keypoints[image_id].xy[index])
        for image_id, index in zip((pair.first, pair.second), pair.indices.T, strict=True)
    )
    to_pixels = straight.pixels_from_homogeneous
    F = to_pixels.T @ pair.fundamental @ to_pixels
    lines_second, lines_first = first @ F.T, second @ F
    weight = 1 / np.sqrt((lines_second[:, :2] ** 2 + lines_first[:, :2] ** 2).sum(1) + 1e-300)
    squares = ((values[:, :2] ** 2).sum(1) for values in (first, second))
    by_coefficient = sum(
        square * lines[:, 2] for square, lines in zip(squares, (lines_first, lines_second), strict=True)
    )
    system = (second[:, :, None] * first[:, None, :]).reshape(-1, 9)
    residual = system @ F.ravel()
    # F is determined up to scale: the last row keeps its scale.
    rows = np.column_stack([system * weight[:, None], by_coefficient * weight])
    rows = np.concatenate([rows, 1e3 * np.append(F.ravel() / np.linalg.norm(F), 0.0)[None]])
    solution = np.linalg.lstsq(rows, np.append(-residual * weight, 0.0), rcond=None)[0]
    return float(solution[-1])


def _best_coefficient(
    matches: Sequence[tuple[int, int, NDArray[np.int64]]],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
) -> float:
    """Find the division coefficient with the most inliers among putative matches.

    Args:
        matches: Image indices and putative matches (M, 2) of some pairs, all with the same image size.
        keypoints: Keypoints of all images.
        settings: Options of matching.

    Returns:
        The coefficient; zero if no coefficient gives clearly more inliers than zero.
    """
    options = settings.wide_angle

    def num_inliers(coefficient: float) -> int:
        total = 0
        for first, second, indices in matches:
            if len(indices) < settings.min_matches:
                continue
            features = [replace(keypoints[i], division=coefficient) for i in (first, second)]
            _, inliers = estimate_division_fundamental(
                features[0], features[1], indices, settings, options.max_num_trials
            )
            total += int(inliers.sum())
        return total

    counts = [num_inliers(coefficient) for coefficient in options.candidates]
    best = int(np.argmax(counts))
    if counts[best] < options.min_inlier_gain * num_inliers(0.0):
        return 0.0
    return options.candidates[best]
