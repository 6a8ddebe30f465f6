"""Absolute and relative poses: exact recovery, success criteria, and cameras in poselib's format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fixtures.synthetic import make_scene

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert, rigid, rotation_exp, transform
from nope_splat.sfm.pose_estimation import estimate_absolute_pose, estimate_relative_pose
from nope_splat.sfm.pose_options import AbsolutePoseOptions, RelativePoseOptions

CAMERA = Camera(700.0, (5.0, -3.0), (-0.08, 0.02, 0.0, 0.0, 0.0, 0.0))
CAMERAS = [
    Camera(700.0),
    CAMERA,
    replace(CAMERA, distortion=(-0.08, 0.02, 0.0, 0.0, 1e-3, -2e-3)),
    Camera(300.0, (5.0, -3.0), (0.02, -0.01, 0.003, 0.0, 0.0, 0.0), is_fisheye=True),
]
"""Cameras of each model: pinhole, radial, OPENCV, and fisheye."""
OPTIONS = AbsolutePoseOptions(
    abs_pose_max_error=4.0, abs_pose_min_num_inliers=12, abs_pose_min_inlier_ratio=0.25
)


def correspondences(camera: Camera = CAMERA) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Create exact image coordinates and points of an image, and its world-to-camera transform."""
    scene = make_scene(3, 80, noise=0.0, camera=camera)
    points = scene.points[scene.points_of_keypoints[0]]
    return scene.keypoints[0].xy - np.array(scene.size) / 2, points, invert(scene.T_world_camera[0])


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("max_num_refinements", [0, 100])
def test_absolute_pose_is_exact_and_outliers_are_detected(max_num_refinements: int, camera: Camera) -> None:
    xy, points, truth = correspondences(camera)
    xy = xy.copy()
    xy[::5] += 50.0
    options = replace(OPTIONS, max_num_refinements=max_num_refinements)
    pose = estimate_absolute_pose(xy, points, camera, options)
    np.testing.assert_allclose(pose.T, truth, atol=1e-5)
    assert pose.success
    np.testing.assert_array_equal(pose.inliers, np.arange(len(xy)) % 5 != 0)


@pytest.mark.parametrize("name", ["abs_pose_min_num_inliers", "abs_pose_min_inlier_ratio"])
def test_too_few_inliers_fail_but_are_returned(name: str) -> None:
    xy, points, _ = correspondences()
    xy = np.where(np.arange(len(xy))[:, None] % 2, xy, xy[::-1])
    limit = {"abs_pose_min_num_inliers": len(xy), "abs_pose_min_inlier_ratio": 0.9}[name]
    pose = estimate_absolute_pose(xy, points, CAMERA, replace(OPTIONS, **{name: limit}))
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
    pose = estimate_relative_pose(first, second, Camera(500.0), Camera(600.0), RelativePoseOptions(2.0))
    assert pose.inliers.all()
    np.testing.assert_allclose(pose.T, truth, atol=1e-6)


def wide_pair(noise: float = 0.0) -> tuple[Camera, np.ndarray, np.ndarray, np.ndarray]:
    """Create a fisheye camera, pixels of points all around two images, and the true relative pose."""
    rng = np.random.default_rng(3)
    camera = Camera(200.0, distortion=(0.02, -0.01, 0.0, 0.0, 0.0, 0.0), is_fisheye=True)
    truth = rigid(rotation_exp(np.array([0.1, -0.2, 0.05])), np.array([0.6, 0.0, 0.8]))
    angle, direction = rng.uniform(0, np.radians(95), 300), rng.uniform(0, 2 * np.pi, 300)
    rays = np.stack(
        [np.sin(angle) * np.cos(direction), np.sin(angle) * np.sin(direction), np.cos(angle)], axis=1
    )
    points = rays * rng.uniform(2, 6, (300, 1))
    xy = [camera.project(p, np.zeros(2, np.int64)) for p in (points, transform(truth, points))]
    first, second = (pixels + noise * rng.normal(size=pixels.shape) for pixels in xy)
    return camera, first, second, truth


@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 2e-3), (0.5, 2e-2)])
def test_relative_pose_of_points_beside_and_behind_the_cameras(noise: float, tolerance: float) -> None:
    camera, first, second, truth = wide_pair(noise)
    second[::4] = second[::-4]
    pose = estimate_relative_pose(first, second, camera, camera, RelativePoseOptions(3.0))
    np.testing.assert_allclose(pose.T, truth, atol=tolerance)
    assert pose.inliers[np.arange(300) % 4 != 0].mean() > 0.98


def test_no_pose_is_found_without_enough_matches() -> None:
    camera, first, second, _ = wide_pair()
    pose = estimate_relative_pose(first[:4], second[:4], camera, camera, RelativePoseOptions(3.0))
    assert not pose.success
