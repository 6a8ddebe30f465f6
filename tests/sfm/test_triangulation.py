"""Triangulation is robust to wrong observations and rejects rays without parallax."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, look_at, make_scene

from nope_splat.geometry.rigid import invert
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import (
    angles_between,
    complete_tracks,
    filter_observations,
    triangulate,
    triangulate_two_views,
)


def posed(scene: SyntheticScene, registered: slice = slice(None)) -> SfmState:
    """Create a state with true poses and focal length but without points."""
    tracks = build_tracks(scene.keypoints, scene.matches.pairs)
    state = SfmState.from_tracks(tracks, scene.camera_groups, np.array([scene.camera.focal]))
    state.T_camera_world[:] = invert(scene.T_world_camera)
    state.registered[registered] = True
    return state


def true_points(scene: SyntheticScene, state: SfmState) -> np.ndarray:
    """Look up the true point of each track by its first observation. (T, 3)."""
    first = np.unique(state.track_ids, return_index=True)[1]
    ids = [
        scene.points_of_keypoints[image_id][keypoint]
        for image_id, keypoint in zip(state.image_ids[first], state.keypoint_ids[first], strict=True)
    ]
    return scene.points[ids]


def test_intersect_recovers_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (50, 3))
    poses = invert(np.stack([look_at(np.array([x, -4.0, 0.3]), np.zeros(3)) for x in (-1.0, 1.0)]))
    points_cameras = [points @ pose[:3, :3].T + pose[:3, 3] for pose in poses]
    rays = [p / p[:, 2:] for p in points_cameras]
    np.testing.assert_allclose(triangulate_two_views(poses[0], rays[0], poses[1], rays[1]), points, atol=1e-9)


def test_angles_between_vectors() -> None:
    first = np.array([[1.0, 0, 0], [2, 0, 0]])
    np.testing.assert_allclose(angles_between(first, np.array([[0.0, 3, 0], [1, 1, 0]])), [90, 45])


def test_triangulation_of_exact_observations() -> None:
    scene = make_scene(noise=0.0, wrong=0.0)
    state = posed(scene)
    triangulate(state, max_error=4.0, min_angle=1.5)
    assert state.has_point.all()
    assert state.inlier.all()
    np.testing.assert_allclose(state.points, true_points(scene, state), atol=1e-8)


def test_wrong_observations_are_outvoted() -> None:
    scene = make_scene(noise=0.3, wrong=0.0)
    state = posed(scene)
    bad = np.unique(state.track_ids, return_index=True)[1]  # one observation of every track
    state.xy[bad] += 50.0
    triangulate(state, max_error=4.0, min_angle=1.5)
    long = np.bincount(state.track_ids) >= 5
    assert state.has_point[long].all()
    assert not state.inlier[bad][long].any()
    error = np.linalg.norm(state.points - true_points(scene, state), axis=1)
    assert np.median(error[long]) < 0.01


def test_no_point_without_parallax() -> None:
    close = np.stack([look_at(np.array([x, -4.0, 0.0]), np.zeros(3)) for x in (0.0, 0.01, 0.02)])
    state = posed(make_scene(poses=close, noise=0.0, wrong=0.0))
    triangulate(state, max_error=4.0, min_angle=1.5)
    assert not state.has_point.any()
    assert not state.inlier.any()


def test_completion_adds_observations_of_newly_registered_images() -> None:
    state = posed(make_scene(wrong=0.0), registered=slice(0, 4))
    triangulate(state, max_error=4.0, min_angle=1.5)
    assert not state.inlier[state.image_ids >= 4].any()
    state.registered[:] = True
    complete_tracks(state, max_error=4.0)
    late = (state.image_ids >= 4) & state.has_point[state.track_ids]
    assert state.inlier[late].mean() > 0.95


@pytest.mark.parametrize("max_error", [2.0, 8.0])
def test_filter_keeps_observations_with_small_errors(max_error: float) -> None:
    state = posed(make_scene(wrong=0.0))
    triangulate(state, max_error=4.0, min_angle=1.5)
    rng = np.random.default_rng(0)
    moved = rng.choice(np.flatnonzero(state.inlier), 100, replace=False)
    state.xy[moved] += 5.0
    filter_observations(state, max_error, min_angle=1.5)
    assert state.errors(np.flatnonzero(state.inlier)).max() < max_error
    assert state.inlier[moved].any() == (max_error > 7)
    support = np.bincount(state.track_ids[state.inlier], minlength=len(state.points))
    assert (support[state.has_point] >= 2).all()
    assert (support[~state.has_point] == 0).all()
