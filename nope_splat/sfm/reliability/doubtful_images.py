"""Images whose matches contradict their pose."""

from __future__ import annotations

import numpy as np

from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.evidence import Evidence, collect_evidence
from nope_splat.sfm.result import focal_uncertainty
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import filter_observations


def doubt_cameras(
    state: SfmState, problem: SfmProblem, focal_noise_ratio: float, keep_doubtful: bool
) -> tuple[Evidence, dict[int, str]]:
    """Compare the cameras with all matches, and leave out images whose matches contradict their pose.

    Args:
        state: The refined state; changed in place.
        problem: The component, with all verified matches.
        focal_noise_ratio: Noise at other focal lengths, from `FocalProfile`.
        keep_doubtful: Whether to keep such images.

    Returns:
        The evidence of the images that are left; reason by index of images that are left out.
    """
    uncertainty = focal_uncertainty(state, problem.options)
    evidence = collect_evidence(state, problem, focal_noise_ratio, uncertainty)
    failures = {} if keep_doubtful else leave_out_doubtful_images(state, evidence)
    if failures:
        evidence = collect_evidence(state, problem, focal_noise_ratio, uncertainty)
    return evidence, failures


def leave_out_doubtful_images(state: SfmState, evidence: Evidence) -> dict[int, str]:
    """Unregister the images most of whose matches contradict their pose, in place.

    If that concerns half of the images or more, it is not these images that are doubtful, and all are kept.

    Args:
        state: The refined state.
        evidence: Comparison of the matches with the cameras.

    Returns:
        Reason by image index.
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
    return dict.fromkeys(doubtful.tolist(), "most of its matches contradict the pose that was found")
