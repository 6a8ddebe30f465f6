"""Ambiguity of matches: patterns that repeat within an image, and a second motion within an image pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import poselib
from numpy.typing import NDArray

from nope_splat.matching.options import AmbiguityOptions, MatchingSettings
from nope_splat.matching.verification import epipolar_errors
from nope_splat.scene.features import Keypoints, PairMatches


def count_second_motion(
    verified: PairMatches,
    indices: NDArray[np.int64],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
) -> PairMatches:
    """Count the matches of a second epipolar geometry among the matches that contradict the first.

    Moving objects and repeated patterns give a second geometry with many inliers. Random wrong matches do
    not.

    Args:
        verified: The verified pair with its epipolar geometry.
        indices: Putative matches of the pair: keypoint indices in its first and second image. (M, 2).
        keypoints: Keypoints of all images.
        settings: Options of matching.

    Returns:
        The pair, with `num_second_motion` set to the number of inliers of the second geometry; the unchanged
        pair if there are too few inliers.
    """
    options = settings.ambiguity
    used = np.concatenate([verified.indices, verified.stationary])
    unverified = indices[~np.isin(indices @ (1, 1j), used @ (1, 1j))]
    # Matches just above the threshold still belong to the first geometry, because of lens distortion and
    # keypoint noise.
    errors = epipolar_errors(verified, unverified, keypoints)
    unverified = unverified[errors > options.min_contradicting_error_ratio * settings.max_epipolar_error]
    if len(unverified) < settings.min_matches:
        return verified
    if keypoints[verified.first].division or keypoints[verified.second].division:
        # The division model is not exact near the border of wide-angle images, so that matches there seem to
        # move differently.
        return verified
    pixel_size = max(keypoints[image_id].pixel_size for image_id in (verified.first, verified.second))
    first, second = (
        keypoints[image_id].xy[index] / pixel_size
        for image_id, index in zip((verified.first, verified.second), unverified.T, strict=True)
    )
    ransac = {
        "max_epipolar_error": settings.max_epipolar_error,
        "max_iterations": options.max_num_trials,
        "min_iterations": options.max_num_trials,
        "seed": settings.seed,
    }
    _, info = poselib.estimate_fundamental(first, second, ransac, {"max_iterations": 0})
    num_second_motion = int(info["num_inliers"])
    if num_second_motion < max(
        settings.min_matches, options.min_second_motion_inlier_ratio * len(unverified)
    ):
        return verified
    return replace(verified, num_second_motion=num_second_motion)


def measure_repetition(
    keypoints: Sequence[Keypoints], pairs: Sequence[PairMatches], options: AmbiguityOptions
) -> NDArray[np.floating]:
    """Measure the fraction of keypoints in each image that resemble another place in the same image.

    A keypoint repeats if another keypoint of the image, at a distance of at least `min_distance`, has a
    similar descriptor. The similarity (inner product) must reach a quantile (`similarity_quantile`) of the
    similarities between matched keypoints in the image's verified pairs.

    Args:
        keypoints: Keypoints of each image, with unit-length descriptors. Without descriptors, all fractions
            are zero.
        pairs: Verified image pairs.
        options: Options of the measurement.

    Returns:
        Fraction of the keypoints of each image that repeat, from 0 to 1; zero for images without matches.
        (N,).
    """
    if any(features.descriptors.shape[1] == 0 for features in keypoints):
        return np.zeros(len(keypoints))
    similarities: list[list[NDArray[np.floating]]] = [[] for _ in keypoints]
    for pair in pairs:
        sample = pair.indices[:: max(1, len(pair.indices) // options.max_num_keypoints)]
        first, second = (
            keypoints[image_id].descriptors[index]
            for image_id, index in zip((pair.first, pair.second), sample.T, strict=True)
        )
        for image_id in (pair.first, pair.second):
            similarities[image_id].append(np.einsum("ij,ij->i", first, second))
    shares = np.zeros(len(keypoints))
    for image_id, features in enumerate(keypoints):
        if not similarities[image_id]:
            continue
        typical = np.quantile(np.concatenate(similarities[image_id]), options.similarity_quantile)
        step = max(1, len(features.xy) // options.max_num_keypoints)
        sample = np.arange(0, len(features.xy), step)
        similarity = features.descriptors[sample] @ features.descriptors.T
        distance = np.linalg.norm(features.xy[sample, None] - features.xy[None], axis=2)
        similarity[distance < options.min_distance * features.pixel_size] = -1
        shares[image_id] = np.mean(similarity.max(axis=1) >= typical)
    return shares
