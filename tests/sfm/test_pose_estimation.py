"""Absolute and relative poses: exact recovery, success criteria, and cameras in poselib's format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fixtures.synthetic import make_scene

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert, transform
from nope_splat.sfm.pose_estimation import estimate_absolute_pose, estimate_relative_pose, poselib_camera
from nope_splat.sfm.pose_options import AbsolutePoseOptions, RelativePoseOptions

CAMERA = Camera(700.0, (5.0, -3.0), (-0.08, 0.02))
OPTIONS = AbsolutePoseOptions(
    abs_pose_max_error=4.0, abs_pose_min_num_inliers=12, abs_pose_min_inlier_ratio=0.25
)


def correspondences(image_id: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Create exact image coordinates and points, the world-to-camera transform, and the camera."""
    scene = make_scene(3, 80, noise=0.0, camera=CAMERA)
    points = scene.points[scene.points_of_keypoints[image_id]]
    model = poselib_camera(CAMERA.focal, CAMERA.principal_points(np.array(scene.size)), CAMERA.radial)
    return scene.keypoints[image_id].xy, points, invert(scene.T_world_camera[image_id]), model


@pytest.mark.parametrize("max_num_refinements", [0, 100])
def test_absolute_pose_is_exact_and_outliers_are_detected(max_num_refinements: int) -> None:
    xy, points, truth, model = correspondences()
    xy = xy.copy()
    xy[::5] += 50.0
    options = replace(OPTIONS, max_num_refinements=max_num_refinements)
    pose = estimate_absolute_pose(xy, points, model, options)
    np.testing.assert_allclose(pose.T, truth, atol=1e-5)
    assert pose.success
    np.testing.assert_array_equal(pose.inliers, np.arange(len(xy)) % 5 != 0)


@pytest.mark.parametrize("name", ["abs_pose_min_num_inliers", "abs_pose_min_inlier_ratio"])
def test_too_few_inliers_fail_but_are_returned(name: str) -> None:
    xy, points, _, model = correspondences()
    xy = np.where(np.arange(len(xy))[:, None] % 2, xy, xy[::-1])
    limit = {"abs_pose_min_num_inliers": len(xy), "abs_pose_min_inlier_ratio": 0.9}[name]
    pose = estimate_absolute_pose(xy, points, model, replace(OPTIONS, **{name: limit}))
    assert not pose.success
    assert 12 <= pose.inliers.sum() < 0.9 * len(xy)


def test_relative_pose_of_exact_matches() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1, 1, (60, 2)), rng.uniform(3, 6, (60, 1))], axis=1)
    truth = invert(make_scene(2, 10).T_world_camera[1]) @ make_scene(2, 10).T_world_camera[0]
    truth[:3, 3] /= np.linalg.norm(truth[:3, 3])
    points_second = transform(truth, points)
    in_front = points_second[:, 2] > 0.5
    first, second = (
        500.0 * points[in_front, :2] / points[in_front, 2:],
        600.0 * points_second[in_front, :2] / points_second[in_front, 2:],
    )
    pose = estimate_relative_pose(
        first, second, poselib_camera(500.0), poselib_camera(600.0), RelativePoseOptions(2.0)
    )
    assert pose.inliers.all()
    np.testing.assert_allclose(pose.T, truth, atol=1e-6)
