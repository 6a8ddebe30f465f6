"""Retriangulation: rebuild tracks from the matches that agree with the registered poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.epipolar import essential_matrix, ray_errors, sampson_errors
from nope_splat.geometry.rigid import invert
from nope_splat.matching import PairMatches
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import triangulate
from nope_splat.utils.typing import Array


def rebuild_tracks(state: SfmState, problem: SfmProblem, extra: Sequence[PairMatches] = ()) -> SfmState:
    """Rebuild tracks and points from the matches that agree with the poses.

    A wrong match merges two tracks into an inconsistent track, which is discarded; repeated structures cause
    many such matches. Epipolar errors computed from the poses of the state reject most wrong matches.

    Args:
        state: State with poses.
        problem: All verified matches of the connected component.
        extra: Matches of pairs with an unregistered image, which are used without a test; other matches of
            unregistered images are not used.

    Returns:
        A state with the same poses and intrinsics, and with new tracks and points.
    """
    max_error = problem.options.re_max_epipolar_error
    confirmed, rays = list(extra), keypoint_rays(state, problem)
    for pair in problem.pairs:
        if state.registered[[pair.first, pair.second]].all():
            is_inlier = epipolar_errors(state, rays, pair) < max_error
            confirmed.append(replace(pair, indices=pair.indices[is_inlier]))
    tracks = build_tracks(problem.keypoints, confirmed)
    rebuilt = SfmState.from_tracks(
        tracks,
        problem.camera_groups,
        state.focal,
        state.fix_focal,
        state.focal_prior,
        state.intrinsics_prior,
    )
    rebuilt.initial_focal = state.initial_focal
    rebuilt.offset, rebuilt.distortion = state.offset, state.distortion
    rebuilt.is_fisheye = state.is_fisheye
    rebuilt.T_camera_world = state.T_camera_world
    rebuilt.registered = state.registered
    triangulate(rebuilt, max_error, problem.options.min_tri_angle)
    return rebuilt


def keypoint_rays(state: SfmState, problem: SfmProblem) -> list[Array]:
    """Compute the viewing rays of all keypoints of each image.

    Args:
        state: State with intrinsics.
        problem: Keypoints of the images.

    Returns:
        Undistorted rays in camera coordinates, scaled to z = 1. (K, 3) for each image.
    """
    return [state.rays(xy, image_id) for image_id, xy in enumerate(problem.centered_keypoints)]


def epipolar_errors(state: SfmState, rays: Sequence[Array], pair: PairMatches) -> NDArray[np.floating]:
    """Compute the Sampson errors of the matches of two registered images.

    Args:
        state: State in which both images have a pose.
        rays: Rays of each image's keypoints, from `keypoint_rays`. (K, 3) each.
        pair: Matches of the two images.

    Returns:
        Error of each match, in pixels at keypoint detection resolution. (M,).
    """
    first, second = rays[pair.first][pair.indices[:, 0]], rays[pair.second][pair.indices[:, 1]]
    focal_first, focal_second = state.focal[state.camera_ids[[pair.first, pair.second]]]
    relative = state.T_camera_world[pair.second] @ invert(state.T_camera_world[pair.first])
    cameras = state.camera_ids[[pair.first, pair.second]]
    errors = ray_errors if state.is_fisheye[cameras].any() else sampson_errors
    return errors(first, second, essential_matrix(relative), focal_first, focal_second)
