"""Resection: poses of images that were not part of the reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.synthetic import make_scene

from nope_splat.geometry.camera import Camera
from nope_splat.matching import PairMatches
from nope_splat.sfm.registration.resection import find_correspondences, resect


@pytest.mark.parametrize("offset", [(0.0, 0.0), (9.0, -5.0)])
def test_pose_is_robust_to_outliers(offset: tuple[float, float]) -> None:
    scene = make_scene(3, camera=Camera(700.0, offset))
    ids, xy = scene.points_of_keypoints[1], scene.keypoints[1].xy.copy()
    xy[:50] = np.random.default_rng(0).uniform(0, 480, (50, 2))
    resection = resect(xy, scene.points[ids], scene.camera, scene.size)
    assert resection is not None
    assert not resection.inliers[:50].sum() > 3
    assert resection.inliers[50:].all()
    np.testing.assert_allclose(resection.T_world_camera, scene.T_world_camera[1], atol=5e-3)


def test_pose_follows_optimized_points_and_focal_length() -> None:
    """Training changes points and focal length after reconstruction."""
    scene = make_scene(3, noise=0.0)
    ids, xy = scene.points_of_keypoints[1], scene.keypoints[1].xy
    points = 2 * scene.points[ids] + [1.0, 2.0, 3.0]
    resection = resect(xy, points, scene.camera, scene.size)
    assert resection is not None
    np.testing.assert_allclose(
        resection.T_world_camera[:3, 3], 2 * scene.T_world_camera[1, :3, 3] + [1.0, 2.0, 3.0], atol=1e-4
    )
    scaled = resect(xy * 3, scene.points[ids], Camera(2100.0), (1920, 1440), pixel_size=3.0)
    assert scaled is not None
    np.testing.assert_allclose(scaled.T_world_camera, scene.T_world_camera[1], atol=1e-4)


def test_too_few_or_inconsistent_points_give_no_pose() -> None:
    scene = make_scene(3)
    ids, xy = scene.points_of_keypoints[1], scene.keypoints[1].xy
    assert resect(xy[:11], scene.points[ids[:11]], scene.camera, scene.size) is None
    assert resect(np.zeros((0, 2)), np.zeros((0, 3)), scene.camera, scene.size) is None
    inconsistent = np.random.default_rng(0).permutation(scene.points[ids])
    assert resect(xy, inconsistent, scene.camera, scene.size) is None


def test_correspondences_are_one_to_one_and_follow_the_majority() -> None:
    def pair(first: int, second: int, *indices: tuple[int, int]) -> PairMatches:
        return PairMatches(first, second, np.array(indices), np.eye(3), 0.0)

    # Image 1 is the new one. Points of the keypoints of images 0, 2 and 3:
    points = [np.array([10, 11, -1]), np.zeros(0, np.int64), np.array([10, 12]), np.array([12, 10])]
    pairs = [
        pair(0, 1, (0, 5), (1, 6), (2, 7)),  # keypoint 5 is point 10, 6 is 11; 7 has no point
        pair(1, 2, (5, 1), (6, 0)),  # keypoint 5 is point 12, 6 is 10
        pair(1, 3, (5, 1), (8, 0)),  # keypoint 5 is point 10, 8 is 12
    ]
    keypoints, point_ids = find_correspondences(1, pairs, points)
    assert dict(zip(keypoints.tolist(), point_ids.tolist(), strict=True))[5] == 10
    assert len(set(keypoints.tolist())) == len(keypoints)
    assert len(set(point_ids.tolist())) == len(point_ids)
    assert 7 not in keypoints
