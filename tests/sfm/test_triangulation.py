"""Triangulation finds points in spite of wrong observations, and refuses rays without parallax."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import SyntheticScene, look_at, make_scene

from nope_splat.geometry.rigid import invert
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import angles_between, extend, filter_observations, intersect, triangulate


def posed(scene: SyntheticScene, registered: slice = slice(None)) -> SfmState:
    """The scene with true poses and focal length but no points."""
    tracks = build_tracks(scene.keypoints, scene.matches.pairs)
    working = SfmState.start(tracks, scene.layout, np.array([scene.camera.focal]))
    working.T_camera_world[:] = invert(scene.T_world_camera)
    working.registered[registered] = True
    return working


def true_points(scene: SyntheticScene, working: SfmState) -> np.ndarray:
    """The true point of each track, from its first observation. (T, 3)."""
    first = np.unique(working.track_ids, return_index=True)[1]
    ids = [
        scene.points_of_keypoints[image_id][keypoint]
        for image_id, keypoint in zip(working.image_ids[first], working.keypoint_ids[first], strict=True)
    ]
    return scene.points[ids]


def test_rays_meet_where_they_were_cast() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (50, 3))
    poses = invert(np.stack([look_at(np.array([x, -4.0, 0.3]), np.zeros(3)) for x in (-1.0, 1.0)]))
    in_cameras = [points @ pose[:3, :3].T + pose[:3, 3] for pose in poses]
    rays = [p / p[:, 2:] for p in in_cameras]
    np.testing.assert_allclose(intersect(poses[0], rays[0], poses[1], rays[1]), points, atol=1e-9)


def test_angles() -> None:
    first = np.array([[1.0, 0, 0], [2, 0, 0]])
    np.testing.assert_allclose(angles_between(first, np.array([[0.0, 3, 0], [1, 1, 0]])), [90, 45])


def test_tracks_become_points() -> None:
    scene = make_scene(noise=0.0, wrong=0.0)
    working = posed(scene)
    triangulate(working, max_error=4.0, min_angle=1.5)
    assert working.has_point.all()
    assert working.inlier.all()
    np.testing.assert_allclose(working.points, true_points(scene, working), atol=1e-8)


def test_wrong_observations_are_outvoted() -> None:
    scene = make_scene(noise=0.3, wrong=0.0)
    working = posed(scene)
    bad = np.unique(working.track_ids, return_index=True)[1]  # one observation of every track
    working.xy[bad] += 50.0
    triangulate(working, max_error=4.0, min_angle=1.5)
    long = np.bincount(working.track_ids) >= 5
    assert working.has_point[long].all()
    assert not working.inlier[bad][long].any()
    error = np.linalg.norm(working.points - true_points(scene, working), axis=1)
    assert np.median(error[long]) < 0.01


def test_no_point_without_parallax() -> None:
    close = np.stack([look_at(np.array([x, -4.0, 0.0]), np.zeros(3)) for x in (0.0, 0.01, 0.02)])
    working = posed(make_scene(poses=close, noise=0.0, wrong=0.0))
    triangulate(working, max_error=4.0, min_angle=1.5)
    assert not working.has_point.any()
    assert not working.inlier.any()


def test_unregistered_images_have_no_say_until_extended() -> None:
    working = posed(make_scene(wrong=0.0), registered=slice(0, 4))
    triangulate(working, max_error=4.0, min_angle=1.5)
    assert not working.inlier[working.image_ids >= 4].any()
    working.registered[:] = True
    extend(working, max_error=4.0)
    late = (working.image_ids >= 4) & working.has_point[working.track_ids]
    assert working.inlier[late].mean() > 0.95


@pytest.mark.parametrize("max_error", [2.0, 8.0])
def test_filter_keeps_exactly_what_reprojects_well(max_error: float) -> None:
    working = posed(make_scene(wrong=0.0))
    triangulate(working, max_error=4.0, min_angle=1.5)
    rng = np.random.default_rng(0)
    moved = rng.choice(np.flatnonzero(working.inlier), 100, replace=False)
    working.xy[moved] += 5.0
    filter_observations(working, max_error, min_angle=1.5)
    assert working.errors(np.flatnonzero(working.inlier)).max() < max_error
    assert working.inlier[moved].any() == (max_error > 7)
    support = np.bincount(working.track_ids[working.inlier], minlength=len(working.points))
    assert (support[working.has_point] >= 2).all()
    assert (support[~working.has_point] == 0).all()
