"""Images whose matches contradict their pose."""

from __future__ import annotations

import numpy as np

from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import filter_observations


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
