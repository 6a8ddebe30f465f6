"""Detection of images whose matches contradict their pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.evidence import Evidence, collect_evidence
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import filter_observations


def assess_reliability(
    state: SfmState, problem: SfmProblem, focal_noise_ratio: float, keep_doubtful: bool
) -> tuple[Evidence, dict[int, str]]:
    """Unregister images whose matches contradict their pose, and collect evidence about the cameras.

    Args:
        state: The refined state; changed in place.
        problem: All verified matches of the connected component.
        focal_noise_ratio: Observation noise at a longer or a shorter focal length, whichever is smaller,
            divided by the noise at the refined focal length (see `FocalProfile.noise_ratio`).
        keep_doubtful: Whether to keep images whose matches contradict their pose.

    Returns:
        The evidence about the remaining images, and the reason for each unregistered image, by image index.
    """
    evidence = collect_evidence(state, problem, focal_noise_ratio)
    failures = {} if keep_doubtful else exclude_doubtful_images(state, evidence)
    if failures:
        uncertainty = evidence.focal_uncertainty
        evidence = collect_evidence(state, problem, focal_noise_ratio)
        evidence = replace(evidence, focal_uncertainty=uncertainty)
    return evidence, failures


def exclude_doubtful_images(state: SfmState, evidence: Evidence) -> dict[int, str]:
    """Unregister each image if most of its matches belong to pairs that contradict the cameras.

    Only matches of pairs with enough matches count (see `Evidence.is_strong`). If at least half of the
    registered images would be unregistered, all images are kept, because it is then unknown which images are
    wrong.

    Args:
        state: The refined state; changed in place.
        evidence: Comparison of the reconstruction with all verified matches.

    Returns:
        Reason for each unregistered image, by image index.
    """
    num_images = len(state.registered)
    ends = np.array(evidence.pairs, np.int64).reshape(-1, 2)
    contradicting, counted = np.zeros((2, num_images))
    for column in ends.T:
        contradicting += np.bincount(column, evidence.num_matches * evidence.contradicts, num_images)
        counted += np.bincount(column, evidence.num_matches * evidence.is_strong, num_images)
    doubtful = np.flatnonzero(state.registered & (contradicting > counted / 2))
    if len(doubtful) == 0 or 2 * len(doubtful) >= state.registered.sum():
        return {}
    state.registered[doubtful] = False
    state.inlier &= state.registered[state.image_ids]
    filter_observations(state, np.inf, evidence.options.min_tri_angle)
    return dict.fromkeys(doubtful.tolist(), "most of its matches contradict its estimated pose")
