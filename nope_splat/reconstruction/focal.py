"""The shared focal length from matched pairs, before any pose is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import poselib

from nope_splat.matching.types import PairMatches

from .working import Array

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
LONGER_STARTS = (1.0, 1.4, 2.0)
"""Starts tried where the pairs do not agree: too long a start is mended by adjustment, too short is not."""


@dataclass(frozen=True)
class FocalEstimate:
    """What the pairs say about the focal length."""

    focal: float
    """Weighted median of the pairs, or the prior; feature pixels."""
    starts: tuple[float, ...]
    """Focal lengths to start reconstruction from: several where the evidence is flat."""
    num_pairs: int
    """Pairs with a plausible focal length."""

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
        positions: Keypoints of each photograph, feature pixels from the image centre. (K, 2) each.
        pairs: Verified matches.
        longer_side: Longer side of the photographs in feature pixels.
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
