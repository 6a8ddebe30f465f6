"""The focal length of each camera from matched pairs, before any pose is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import poselib

from nope_splat.scene.features import PairMatches
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.state import LOG_FOCAL_SIGMA
from nope_splat.utils.typing import Array

PLAUSIBLE = (0.3, 4.0)
"""Shortest and longest focal length believed, as a share of the longer side."""
PRIOR_FIELD_OF_VIEW = 60.0
"""Field of view across the longer side, degrees, assumed where the pairs say nothing."""
MAX_PAIRS = 500
"""Most pairs asked, those with the most matches."""
FLAT_SPREAD = 1.5
"""Ratio of upper to lower quartile of the pairs' focal lengths from which they do not agree."""
MIN_AGREEING_PAIRS = 3
"""Fewest plausible pairs that count as agreement."""
CANDIDATES = 200
"""Focal lengths tried for a camera beside a known one, 1.3 percent apart: adjustment does the rest."""
LONGER_STARTS = (1.0, 1.4, 2.0)
"""Starts tried where the pairs do not agree: too long a start is mended by adjustment, too short is not."""


@dataclass(frozen=True)
class FocalEstimate:
    """What the pairs of one camera's images say about its focal length, with its spread."""

    focal: float
    """Weighted median of the pairs, or the prior; feature pixels."""
    starts: tuple[float, ...]
    """Focal lengths to start reconstruction from: several where the evidence is flat."""
    num_pairs: int
    """Pairs with a plausible focal length."""
    sigma: float = LOG_FOCAL_SIGMA
    """Standard deviation of its logarithm, as far as others tell it than the matches, which speak for
    themselves when everything is adjusted."""

    @property
    def certain(self) -> bool:
        """Whether the pairs agree."""
        return len(self.starts) == 1


def prior_focal(longer_side: float) -> float:
    """Focal length of the assumed field of view. Pixels in, pixels out."""
    return longer_side / 2 / np.tan(np.radians(PRIOR_FIELD_OF_VIEW / 2))


def estimate_focal(
    positions: Sequence[Array], pairs: Sequence[PairMatches], longer_side: float, seed: int = 0
) -> FocalEstimate:
    """Median over the pairs of the focal length that the six-point method finds, weighted by inliers.

    Planar pairs and pairs with little motion constrain the focal length badly, but they scatter to both
    sides, and leaving them out was measured to be worse than outvoting them.

    Args:
        positions: Keypoints of each image, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches.
        longer_side: Longer side of the images in feature pixels.
        seed: Seed of RANSAC.

    Returns:
        The estimate with the starts to try.
    """
    strongest = sorted(pairs, key=lambda pair: -len(pair.indices))[:MAX_PAIRS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda pair: _pair_focal(positions, pair, seed), strongest))
    found = [
        (focal, weight)
        for focal, weight in found
        if PLAUSIBLE[0] * longer_side < focal < PLAUSIBLE[1] * longer_side
    ]
    if not found:
        prior = prior_focal(longer_side)
        return FocalEstimate(prior, tuple(prior * k for k in LONGER_STARTS), 0)
    focals, weights = np.array(found).T
    lower, median, upper = weighted_quantiles(focals, weights, (0.25, 0.5, 0.75))
    agree = len(focals) >= MIN_AGREEING_PAIRS and upper / lower < FLAT_SPREAD
    starts = (1.0,) if agree else LONGER_STARTS
    return FocalEstimate(median, tuple(median * k for k in starts), len(focals))


def within_cameras(pairs: Sequence[PairMatches], layout: CameraGroups) -> list[list[PairMatches]]:
    """Pairs of images that one camera took.

    Args:
        pairs: Verified matches.
        layout: Sizes and cameras of the images.

    Returns:
        The pairs of each of the K cameras.
    """
    own: list[list[PairMatches]] = [[] for _ in range(layout.num_cameras)]
    for pair in pairs:
        first, second = layout.camera_ids[[pair.first, pair.second]]
        if first == second:
            own[first].append(pair)
    return own


def focal_starts(
    positions: Sequence[Array], pairs: Sequence[PairMatches], layout: CameraGroups, seed: int = 0
) -> tuple[Array, ...]:
    """Focal lengths of all cameras: from their own pairs, or else from those with cameras that have one.

    Args:
        positions: Keypoints of each image, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches.
        layout: Sizes and cameras of the images.
        seed: Seed of RANSAC.

    Returns:
        Focal lengths of the cameras to start from, feature pixels: several where the evidence is flat. (K,)
        each.
    """
    estimates = [
        estimate_focal(positions, own, longer_side, seed)
        for own, longer_side in zip(within_cameras(pairs, layout), layout.longer_sides.tolist(), strict=True)
    ]
    focals = np.array([estimate.focal for estimate in estimates])
    known = np.array([estimate.certain for estimate in estimates])
    known[_best_known(estimates)] = True
    for camera in np.flatnonzero(~known):
        joint = []
        for pair in pairs:
            first, second = layout.camera_ids[[pair.first, pair.second]]
            if (first == camera and known[second]) or (second == camera and known[first]):
                joint.append(pair)
        focals[camera] = _focal_beside(camera, joint, focals, layout)
        estimates[camera] = replace(estimates[camera], focal=float(focals[camera]))
    return joint_starts(estimates)


def joint_starts(estimates: Sequence[FocalEstimate]) -> tuple[Array, ...]:
    """Focal lengths of all cameras to start from: as many as the one needs that is known best.

    Args:
        estimates: Of each of K cameras.

    Returns:
        Focal lengths. (K,) each.
    """
    focals = np.array([estimate.focal for estimate in estimates])
    start = estimates[_best_known(estimates)]
    return tuple(focals * (each / start.focal) for each in start.starts)


def _best_known(estimates: Sequence[FocalEstimate]) -> int:
    """Camera whose pairs agree, or say most."""
    support = [(estimate.certain, estimate.num_pairs) for estimate in estimates]
    return support.index(max(support))


def _focal_beside(camera: int, pairs: Sequence[PairMatches], focals: Array, layout: CameraGroups) -> float:
    """Focal length of a camera by its pairs with others whose focal lengths are known; feature pixels.

    With the focal lengths f of each pair, diag(f2, f2, 1) F diag(f1, f1, 1) is an essential matrix, of which
    two singular values are the same: the weighted median over the pairs of the focal length at which they
    are nearest to that. The field of view of the prior, where there are no such pairs.
    """
    longer_side = float(layout.longer_sides[camera])
    candidates = longer_side * np.geomspace(*PLAUSIBLE, CANDIDATES)
    found, weights = [], []
    for pair in pairs:
        first, second = pair.first, pair.second
        F = _to_pixels(second, layout).T @ pair.fundamental @ _to_pixels(first, layout)
        if layout.camera_ids[second] != camera:
            first, second, F = second, first, F.T
        other = focals[layout.camera_ids[first]]
        lens = np.stack([candidates, candidates, np.ones(CANDIDATES)], axis=1)
        large, small, _ = np.linalg.svd(lens[:, :, None] * F * [other, other, 1.0], compute_uv=False).T
        best = int(np.argmax(small / large))
        if 0 < best < CANDIDATES - 1:
            found.append(candidates[best])
            weights.append(len(pair.indices))
    if not found:
        return prior_focal(longer_side)
    return weighted_quantiles(np.array(found), np.array(weights, np.float64), (0.5,))[0]


def _to_pixels(image_id: int, layout: CameraGroups) -> Array:
    """From feature pixels about the center of an image to its full-resolution pixels. (3, 3)."""
    (x, y), scale = layout.sizes[image_id] / 2, layout.pixel_sizes[image_id]
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])


def _pair_focal(positions: Sequence[Array], pair: PairMatches, seed: int) -> tuple[float, int]:
    """Focal length of one pair and the number of matches that agree with it."""
    found, info = poselib.estimate_shared_focal_relative_pose(
        positions[pair.first][pair.indices[:, 0]],
        positions[pair.second][pair.indices[:, 1]],
        np.zeros(2),
        {"max_epipolar_error": 2.0, "max_iterations": 2000, "min_iterations": 100, "seed": seed},
        {},
    )
    return found.camera1.focal(), info["num_inliers"]


def weighted_quantiles(values: Array, weights: Array, shares: Sequence[float]) -> tuple[float, ...]:
    """Smallest values below which at least the given shares of the weight lie. (n,), (n,) -> floats."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    places = np.searchsorted(cumulative, np.array(shares) * cumulative[-1])
    return tuple(float(values[order][min(place, len(values) - 1)]) for place in places)
