"""Tracks once more, from the matches that agree with the registered poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.rigid import invert
from nope_splat.matching import PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import triangulate
from nope_splat.utils.typing import Array

MAX_EPIPOLAR_ERROR = 4.0
"""Largest Sampson error of a match, feature pixels: the poses are not final."""


def rebuild_tracks(state: SfmState, problem: SfmProblem, extra: Sequence[PairMatches] = ()) -> SfmState:
    """Replace tracks and points by those of the matches that agree with the poses.

    A wrong match joins two tracks to one that contradicts itself, and both are lost; with repeated structure
    this happens often. Epipolar errors at known poses reject most wrong matches.

    Args:
        state: A state with poses.
        problem: All verified matches of the component.
        extra: Matches with images without a pose, taken as they are.

    Returns:
        A state with the same cameras and new tracks.
    """
    confirmed = list(extra)
    for pair in problem.pairs:
        if state.registered[[pair.first, pair.second]].all():
            good = _epipolar_errors(state, problem.centered_keypoints, pair) < MAX_EPIPOLAR_ERROR
            confirmed.append(replace(pair, indices=pair.indices[good]))
    tracks = build_tracks(problem.keypoints, confirmed)
    rebuilt = SfmState.start(tracks, problem.camera_groups, state.focal, state.fix_focal, state.focal_prior)
    rebuilt.initial_focal = state.initial_focal
    rebuilt.offset, rebuilt.radial = state.offset, state.radial
    rebuilt.T_camera_world = state.T_camera_world
    rebuilt.registered = state.registered
    triangulate(rebuilt, MAX_EPIPOLAR_ERROR, problem.options.min_tri_angle)
    return rebuilt


def _epipolar_errors(
    state: SfmState, centered_keypoints: Sequence[Array], pair: PairMatches
) -> NDArray[np.float64]:
    """Sampson errors of the matches of a pair of registered images, feature pixels. (M,)."""
    first = state.rays(centered_keypoints[pair.first][pair.indices[:, 0]], pair.first)
    second = state.rays(centered_keypoints[pair.second][pair.indices[:, 1]], pair.second)
    focal_first, focal_second = state.focal[state.camera_ids[[pair.first, pair.second]]]
    relative = state.T_camera_world[pair.second] @ invert(state.T_camera_world[pair.first])
    x, y, z = relative[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative[:3, :3]
    lines_second, lines_first = first @ essential.T, second @ essential
    residual = np.einsum("ni,ni->n", second, lines_second)
    # How fast the residual grows with the places in the two images.
    slope = (lines_second[:, :2] ** 2).sum(1) / focal_second**2
    slope += (lines_first[:, :2] ** 2).sum(1) / focal_first**2
    return np.abs(residual) / np.sqrt(slope + 1e-300)
