"""Agreement of the verified matches with the cameras of a finished reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nope_splat.geometry.rigid import invert, rotation_angle
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.retriangulation import epipolar_errors, keypoint_rays
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class MatchCounts:
    """Numbers of verified and of agreeing matches, and rotation angle, of each of E image pairs.

    All three are 0 for pairs with an unregistered image.
    """

    num_matches: Indices
    """Number of matches. (E,)."""
    num_agreeing: Indices
    """Number of matches that agree with the epipolar geometry of the poses. (E,)."""
    rotation: Array
    """Angle of the rotation between the poses of both images, in degrees. (E,)."""


def count_matches(state: SfmState, problem: SfmProblem) -> MatchCounts:
    """Count the verified matches of each pair, and those that agree with the poses.

    Args:
        state: The refined state.
        problem: All verified matches of the connected component.

    Returns:
        Number of matches, number of agreeing matches and rotation angle of each pair.
    """
    num_matches, num_agreeing = np.zeros((2, len(problem.pairs)), np.int64)
    rotation, rotations = np.zeros(len(problem.pairs)), state.T_camera_world[:, :3, :3]
    rays = keypoint_rays(state, problem)
    for index, pair in enumerate(problem.pairs):
        if state.registered[[pair.first, pair.second]].all():
            errors = epipolar_errors(state, rays, pair)
            num_matches[index] = len(errors)
            num_agreeing[index] = np.count_nonzero(errors < problem.options.re_max_epipolar_error)
            rotation[index] = rotation_angle(rotations[pair.second] @ rotations[pair.first].T)
    return MatchCounts(num_matches, num_agreeing, rotation)


def find_conflicting_poses(state: SfmState, problem: SfmProblem, counts: MatchCounts) -> Mask:
    """Find pairs that disagree with the cameras and have a different relative pose that fits their matches.

    Args:
        state: The refined state.
        problem: All verified matches of the connected component.
        counts: Number of matches of each pair.

    Returns:
        True for pairs of which too few matches agree with the cameras, while nearly all matches are inliers
        of a relative pose with enough parallax whose rotation differs from the relative rotation of the two
        cameras. (E,).
    """
    options = problem.options.reliability.evidence
    disagrees = counts.num_agreeing < options.min_agreement * counts.num_matches
    disagrees &= counts.num_matches >= options.min_num_matches
    indices = np.flatnonzero(disagrees)
    pairs = [problem.pairs[index] for index in indices.tolist()]
    two_views = replace(problem, pairs=pairs).relative_poses(state.focal)
    has_conflicting_pose = np.zeros(len(problem.pairs), bool)
    for index, pair in zip(indices.tolist(), pairs, strict=True):
        two_view = two_views.get((pair.first, pair.second))
        if two_view is None:
            continue
        relative = state.T_camera_world[pair.second] @ invert(state.T_camera_world[pair.first])
        angle = rotation_angle(two_view.T_second_first[:3, :3] @ relative[:3, :3].T)
        has_conflicting_pose[index] = (
            len(two_view) >= options.min_conflicting_inlier_ratio * len(pair.indices)
            and two_view.angle >= options.min_conflicting_tri_angle
            and angle >= options.min_conflicting_rotation
        )
    return has_conflicting_pose
