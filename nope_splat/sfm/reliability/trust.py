"""Trust score of a reconstruction: a logistic function of all evidence."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from scipy.special import expit

from nope_splat.scene.tracks import MatchGraph
from nope_splat.scene.trust import Trust
from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.state import SfmState


@dataclass(frozen=True)
class DoubtFeatures:
    """Inputs of the trust score from 0 (no doubt) to 1; also the type of their coefficients."""

    disagreement: float
    """Fraction of the matches of pairs with enough matches that disagree with the poses."""
    contradicting_pairs: float
    """Square root of the fraction of pairs with enough matches that contradict the cameras."""
    missing_points: float
    """Square root of the fraction of overlapping image pairs in which most expected points are missing."""
    second_motions: float
    """Fraction of the pairs with enough matches that support a second epipolar geometry."""
    focal_valley: float
    """1 if other focal lengths explain the observations equally well, 0 if much worse."""


WEIGHTS = DoubtFeatures(20.0, 8.0, 8.0, 5.0, 4.0)
"""Coefficients of the logistic function; rough values that are not fitted to data yet."""
INTERCEPT = -3.0
"""Log-odds of a wrong reconstruction if all inputs are zero."""


def doubt_features(evidence: Evidence) -> DoubtFeatures:
    """Compute the inputs of the trust score from the evidence.

    Args:
        evidence: Comparison of the reconstruction with all verified matches.
    """
    strong = evidence.is_strong
    num_matches, num_agreeing = evidence.num_matches[strong].sum(), evidence.num_agreeing[strong].sum()
    return DoubtFeatures(
        disagreement=float((num_matches - num_agreeing) / max(num_matches, 1)),
        contradicting_pairs=float(evidence.contradicts.sum() / max(strong.sum(), 1)) ** 0.5,
        missing_points=evidence.missing_share**0.5,
        second_motions=evidence.second_motion_share,
        focal_valley=float(np.exp(-(evidence.focal_noise_ratio - 1) / 0.02).clip(0, 1)),
    )


def measure_trust(state: SfmState, graph: MatchGraph, evidence: Evidence) -> Trust:
    """Compute the trust in a reconstruction, in each image and in each pair.

    Args:
        state: The refined state.
        graph: Match graph of all training images.
        evidence: Comparison of the reconstruction with all verified matches.

    Returns:
        The trust score, and the fraction of agreeing matches of each image and of each edge of the match
        graph.
    """
    features = np.array(astuple(doubt_features(evidence)))
    logit = INTERCEPT + float(features @ np.array(astuple(WEIGHTS)))
    agreement = dict(zip(evidence.pairs, evidence.agreement, strict=True))
    pairs = np.array([agreement.get((first, second), np.nan) for first, second in graph.edges.tolist()])
    ends = np.array(evidence.pairs, np.int64).ravel()
    num_images = len(state.registered)
    num_matches = np.bincount(ends, np.repeat(evidence.num_matches, 2), num_images)
    num_agreeing = np.bincount(ends, np.repeat(evidence.num_agreeing, 2), num_images)
    images = np.where(num_matches > 0, num_agreeing / np.maximum(num_matches, 1), np.nan)
    images[~state.registered] = np.nan
    return Trust(float(expit(-logit)), images, pairs.reshape(-1))
