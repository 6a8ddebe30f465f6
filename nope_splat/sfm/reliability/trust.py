"""Trust score of a reconstruction: a logistic function of all evidence."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
from scipy.special import expit

from nope_splat.scene.tracks import MatchGraph
from nope_splat.scene.trust import Doubts, Trust
from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.state import SfmState

WEIGHTS = Doubts(
    disagreement=0.7,
    contradicting_pairs=4.6,
    missing_points=2.6,
    second_motions=2.3,
    repetition=0.0,
    similar_views=2.7,
    focal_valley=2.8,
    mixed_cameras=2.2,
    planar=2.2,
    unregistered=0.9,
    weak_support=3.3,
)
"""Coefficient of each doubt in the logistic function, fitted by `scripts.reliability.calibrate`; doubts with
the coefficient 0 do not affect the score."""
INTERCEPT = -3.4
"""Log-odds of wrong cameras if there is no doubt, fitted together with `WEIGHTS`."""
FOCAL_VALLEY_WIDTH = 0.02
"""Width w in the doubt `focal_valley` = exp(-(r - 1) / w), where r is the ratio of the observation noise at
other focal lengths to the noise at the refined focal length. The doubt is at most 1."""


def find_doubts(state: SfmState, evidence: Evidence, num_training: int) -> Doubts:
    """Compute from the evidence how strong each reason to doubt the cameras is.

    Args:
        state: The refined state.
        evidence: Comparison of the reconstruction with all verified matches.
        num_training: Number of images that are not held out.

    Returns:
        Strength of each reason, from 0 to 1.
    """
    strong = evidence.is_strong
    num_matches, num_agreeing = evidence.num_matches[strong].sum(), evidence.num_agreeing[strong].sum()
    num_registered = int(state.registered.sum())
    enough = evidence.options.reliability.min_observations_per_image
    max_noise = evidence.options.reliability.camera_profile.max_noise_ratio
    return Doubts(
        disagreement=float((num_matches - num_agreeing) / max(num_matches, 1)),
        contradicting_pairs=float(evidence.contradicts.sum() / max(strong.sum(), 1)) ** 0.5,
        missing_points=evidence.missing_pair_fraction**0.5,
        second_motions=evidence.second_motion_fraction,
        repetition=float(evidence.has_repeated_pattern),
        similar_views=1 - evidence.num_views / num_registered,
        focal_valley=float(np.exp(-(evidence.focal_noise_ratio - 1) / FOCAL_VALLEY_WIDTH).clip(0, 1)),
        mixed_cameras=float(np.clip((evidence.camera_profile.noise_ratio - 1) / (2 * max_noise - 2), 0, 1)),
        planar=float(evidence.is_planar),
        unregistered=1 - num_registered / num_training,
        weak_support=min(1.0, enough * num_registered / max(int(state.inlier.sum()), 1)),
    )


def trust_score(doubts: Doubts) -> float:
    """Compute the estimated probability that the cameras are right, by logistic regression.

    Args:
        doubts: Reasons to doubt the cameras.

    Returns:
        The probability, from 0 to 1.
    """
    return float(expit(-(INTERCEPT + np.dot(astuple(doubts), astuple(WEIGHTS)))))


def measure_trust(state: SfmState, graph: MatchGraph, evidence: Evidence, num_training: int) -> Trust:
    """Compute the trust in a reconstruction, in each of its images and in each pair.

    Args:
        state: The refined state.
        graph: Match graph of all training images.
        evidence: Comparison of the reconstruction with all verified matches.
        num_training: Number of images that are not held out.

    Returns:
        The trust: the score, the doubts, and the fraction of agreeing matches of each image and of each edge
        of the match graph.
    """
    doubts = find_doubts(state, evidence, num_training)
    agreement = dict(zip(evidence.pairs, evidence.agreement, strict=True))
    pairs = np.array([agreement.get((first, second), np.nan) for first, second in graph.edges.tolist()])
    ends = np.array(evidence.pairs, np.int64).ravel()
    num_images = len(state.registered)
    num_matches = np.bincount(ends, np.repeat(evidence.num_matches, 2), num_images)
    num_agreeing = np.bincount(ends, np.repeat(evidence.num_agreeing, 2), num_images)
    images = np.where(num_matches > 0, num_agreeing / np.maximum(num_matches, 1), np.nan)
    images[~state.registered] = np.nan
    return Trust(trust_score(doubts), doubts, images, pairs.reshape(-1))
