"""Tracks once more, from the matches that agree with the registered poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.rigid import invert
from nope_splat.matching import Keypoints, PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import triangulate
from nope_splat.utils.typing import Array

MAX_EPIPOLAR_ERROR = 4.0
"""Largest Sampson error of a match, feature pixels: the poses are not final."""


def rebuild_tracks(
    state: SfmState,
    keypoints: Sequence[Keypoints],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    layout: CameraGroups,
    min_angle: float,
    extra: Sequence[PairMatches] = (),
) -> SfmState:
    """Replace the tracks and points of a scene by those of matches that its poses confirm.

    A wrong match joins two tracks to one that contradicts itself, and both are lost; where structure
    repeats, that is many. The poses tell most wrong matches from right ones.

    Args:
        state: A registered scene.
        keypoints: Keypoints of each image.
        positions: The same, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches, before any choice by relative poses.
        layout: Sizes and cameras of the images.
        min_angle: Smallest triangulation angle of a point, degrees.
        extra: Matches with images without a pose, taken as they are.

    Returns:
        A scene with the same cameras and new tracks.
    """
    confirmed = list(extra)
    for pair in pairs:
        if state.registered[[pair.first, pair.second]].all():
            good = _epipolar_errors(state, positions, pair) < MAX_EPIPOLAR_ERROR
            confirmed.append(replace(pair, indices=pair.indices[good]))
    tracks = build_tracks(keypoints, confirmed)
    rebuilt = SfmState.start(tracks, layout, state.focal, state.fix_focal, state.focal_prior)
    rebuilt.initial_focal = state.initial_focal
    rebuilt.offset, rebuilt.radial = state.offset, state.radial
    rebuilt.T_camera_world = state.T_camera_world
    rebuilt.registered = state.registered
    triangulate(rebuilt, MAX_EPIPOLAR_ERROR, min_angle)
    return rebuilt


def _epipolar_errors(state: SfmState, positions: Sequence[Array], pair: PairMatches) -> NDArray[np.float64]:
    """Sampson errors of the matches of a pair of registered images, feature pixels. (M,)."""
    first = state.rays(positions[pair.first][pair.indices[:, 0]], pair.first)
    second = state.rays(positions[pair.second][pair.indices[:, 1]], pair.second)
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
