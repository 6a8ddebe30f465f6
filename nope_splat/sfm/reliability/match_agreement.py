"""Agreement of the verified matches with the cameras and points of a finished reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nope_splat.geometry.rigid import invert, rotation_angle, transform
from nope_splat.matching import PairMatches
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.retriangulation import epipolar_errors
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class MatchCounts:
    """Number of verified matches of each of E pairs; 0 if an image of the pair is not registered."""

    num_matches: Indices
    """Number of matches. (E,)."""
    num_agreeing: Indices
    """Number of matches that agree with the epipolar geometry of the poses. (E,)."""
    num_split: Indices
    """Number of agreeing matches whose two keypoints observe different points. (E,)."""


def count_matches(state: SfmState, problem: SfmProblem) -> MatchCounts:
    """Compare the verified matches with the poses and points.

    Something that moves along the epipolar lines between two images agrees with their epipolar geometry. It
    is reconstructed at two places, though, and the matches between both places join different points.

    Args:
        state: The refined state.
        problem: All verified matches of the connected component.

    Returns:
        The number of matches, of agreeing matches, and of matches between different points.
    """
    counts = np.zeros((len(problem.pairs), 3), np.int64)
    for index, pair in enumerate(problem.pairs):
        if state.registered[[pair.first, pair.second]].all():
            errors = epipolar_errors(state, problem.centered_keypoints, pair)
            agreeing = replace(pair, indices=pair.indices[errors < problem.options.re_max_epipolar_error])
            min_error = problem.options.reliability.evidence.min_split_error
            num_split = np.count_nonzero(_split_errors(state, agreeing) > min_error)
            counts[index] = len(errors), len(agreeing.indices), num_split
    return MatchCounts(*counts.T)


def _split_errors(state: SfmState, pair: PairMatches) -> Array:
    """Compute the reprojection errors of matches whose keypoints observe different points.

    Args:
        state: The refined state.
        pair: Matches of two registered images.

    Returns:
        Reprojection error of the point of either keypoint in the image of the other keypoint, the smaller of
        both, in pixels at keypoint resolution; only of the matches that join two points. (n,).
    """
    image_ids = (pair.first, pair.second)
    rows = np.stack(
        [
            state.observations_of(image_id, keypoints)
            for image_id, keypoints in zip(image_ids, pair.indices.T, strict=True)
        ]
    )
    rows = rows[:, ((rows >= 0) & state.inlier[rows]).all(axis=0)]
    rows = rows[:, state.track_ids[rows[0]] != state.track_ids[rows[1]]]
    errors = [
        state.projection_errors(
            transform(state.T_camera_world[image_id], state.points[state.track_ids[others]]), own
        )
        for image_id, own, others in zip(image_ids, rows, rows[::-1], strict=True)
    ]
    return np.minimum(*errors)


def find_own_poses(state: SfmState, problem: SfmProblem, counts: MatchCounts) -> Mask:
    """Find pairs that disagree with the cameras and have a different relative pose with many inliers.

    Args:
        state: The refined state.
        problem: All verified matches of the connected component.
        counts: Number of matches of each pair.

    Returns:
        Whether nearly all matches of each pair are inliers of a relative pose whose rotation differs from
        that of the cameras. (E,).
    """
    options = problem.options.reliability.evidence
    disagrees = counts.num_agreeing < options.min_agreement * counts.num_matches
    disagrees &= counts.num_matches >= options.min_num_matches
    indices = np.flatnonzero(disagrees)
    pairs = [problem.pairs[index] for index in indices.tolist()]
    two_views = replace(problem, pairs=pairs).relative_poses(state.focal)
    has_own_pose = np.zeros(len(problem.pairs), bool)
    for index, pair in zip(indices.tolist(), pairs, strict=True):
        two_view = two_views.get((pair.first, pair.second))
        if two_view is None:
            continue
        relative = state.T_camera_world[pair.second] @ invert(state.T_camera_world[pair.first])
        angle = rotation_angle(two_view.T_second_first[:3, :3] @ relative[:3, :3].T)
        has_own_pose[index] = (
            len(two_view) >= options.min_own_inliers * len(pair.indices)
            and two_view.angle >= options.min_own_tri_angle
            and angle >= options.min_rotation
        )
    return has_own_pose
