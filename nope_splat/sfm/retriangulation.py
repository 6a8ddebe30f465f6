"""Tracks once more, from the matches that agree with the registered poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.rigid import invert
from nope_splat.matching import Keypoints, PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.camera_groups import PhotoLayout
from nope_splat.sfm.state import WorkingScene
from nope_splat.sfm.triangulation import triangulate
from nope_splat.utils.typing import Array

MAX_EPIPOLAR_ERROR = 4.0
"""Largest Sampson error of a match, feature pixels: the poses are not final."""


def rebuild_tracks(
    scene: WorkingScene,
    keypoints: Sequence[Keypoints],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    layout: PhotoLayout,
    min_angle: float,
    extra: Sequence[PairMatches] = (),
) -> WorkingScene:
    """Replace the tracks and points of a scene by those of matches that its poses confirm.

    A wrong match joins two tracks to one that contradicts itself, and both are lost; where structure
    repeats, that is many. The poses tell most wrong matches from right ones.

    Args:
        scene: A registered scene.
        keypoints: Keypoints of each photograph.
        positions: The same, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches, before any choice by relative poses.
        layout: Sizes and cameras of the photographs.
        min_angle: Smallest triangulation angle of a point, degrees.
        extra: Matches with photographs without a pose, taken as they are.

    Returns:
        A scene with the same cameras and new tracks.
    """
    confirmed = list(extra)
    for pair in pairs:
        if scene.registered[[pair.first, pair.second]].all():
            good = _epipolar_errors(scene, positions, pair) < MAX_EPIPOLAR_ERROR
            confirmed.append(replace(pair, indices=pair.indices[good]))
    tracks = build_tracks(keypoints, confirmed)
    rebuilt = WorkingScene.start(tracks, layout, scene.focal, scene.hold_focal, scene.focal_prior)
    rebuilt.initial_focal = scene.initial_focal
    rebuilt.offset, rebuilt.radial = scene.offset, scene.radial
    rebuilt.T_camera_world = scene.T_camera_world
    rebuilt.registered = scene.registered
    triangulate(rebuilt, MAX_EPIPOLAR_ERROR, min_angle)
    return rebuilt


def _epipolar_errors(
    scene: WorkingScene, positions: Sequence[Array], pair: PairMatches
) -> NDArray[np.float64]:
    """Sampson errors of the matches of a pair of registered photographs, feature pixels. (M,)."""
    first = scene.rays(positions[pair.first][pair.indices[:, 0]], pair.first)
    second = scene.rays(positions[pair.second][pair.indices[:, 1]], pair.second)
    focal_first, focal_second = scene.focal[scene.camera_ids[[pair.first, pair.second]]]
    relative = scene.T_camera_world[pair.second] @ invert(scene.T_camera_world[pair.first])
    x, y, z = relative[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative[:3, :3]
    lines_second, lines_first = first @ essential.T, second @ essential
    residual = np.einsum("ni,ni->n", second, lines_second)
    # How fast the residual grows with the places in the two photographs.
    slope = (lines_second[:, :2] ** 2).sum(1) / focal_second**2
    slope += (lines_first[:, :2] ** 2).sum(1) / focal_first**2
    return np.abs(residual) / np.sqrt(slope + 1e-300)
