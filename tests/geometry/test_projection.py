"""Projection: agrees with OpenCV and finite differences, for arrays and tensors."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from nope_splat.geometry.camera import SharedPinhole, project_errors
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.projection import (
    perspective,
    project,
    projection_jacobian,
    rotation_jacobian,
    unproject,
)
from nope_splat.geometry.rigid import move_poses, transform

FOCAL, RADIAL = 700.0, np.array([-0.12, 0.03])
KINDS = [np.asarray, torch.from_numpy]


def camera_points(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(1)
    depth = rng.uniform(1.0, 5.0, (count, 1))
    return np.concatenate([depth * rng.uniform(-0.6, 0.6, (count, 2)), depth], axis=1)


def opencv_pixels(points: np.ndarray, center: np.ndarray) -> np.ndarray:
    K = np.array([[FOCAL, 0, center[0]], [0, FOCAL, center[1]], [0, 0, 1]])
    terms = np.array([*RADIAL, 0.0, 0.0])
    return cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, terms)[0][:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_projection_agrees_with_opencv(kind: Any) -> None:
    points = camera_points()
    pixels = project(kind(points), FOCAL, kind(RADIAL))
    np.testing.assert_allclose(pixels, opencv_pixels(points, np.zeros(2)), atol=1e-9)


def test_camera_agrees_with_opencv() -> None:
    points, size = camera_points(), np.array([640, 480])
    camera = SharedPinhole(FOCAL, (3.0, -2.0), (float(RADIAL[0]), float(RADIAL[1])))
    expected = opencv_pixels(points, size / 2 + camera.offset)
    np.testing.assert_allclose(camera.project(points, size), expected, atol=1e-9)
    rays = camera.unproject(expected, size)
    np.testing.assert_allclose(rays, points / points[:, 2:], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_unproject_inverts_project(kind: Any) -> None:
    points = camera_points()
    for radial in (None, kind(RADIAL)):
        rays = unproject(project(kind(points), FOCAL, radial), FOCAL, radial)
        np.testing.assert_allclose(rays, points / points[:, 2:], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_limited_behind_the_camera(kind: Any) -> None:
    behind = kind(np.array([[1.0, 2.0, -3.0]]))
    np.testing.assert_array_equal(perspective(behind, min_depth=0.5), [[2.0, 4.0]])
    np.testing.assert_array_equal(perspective(behind, 10.0, 0.5), [[20.0, 40.0]])


def test_errors_are_infinite_behind_the_camera() -> None:
    points = np.array([[0.1, 0.2, 2.0], [0.1, 0.2, -2.0], [0.1, 0.2, 0.0]])
    focal, offset, radial = np.full(3, FOCAL), np.zeros((3, 2)), np.tile(RADIAL, (3, 1))
    seen = FOCAL * distort(points[:1, :2] / 2, RADIAL) + [3.0, 4.0]
    errors = project_errors(points, np.tile(seen, (3, 1)), focal, offset, radial)
    np.testing.assert_allclose(errors, [5.0, np.inf, np.inf])


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_match_finite_differences(kind: Any) -> None:
    points, step = camera_points(), 1e-6
    plane, inverse_depth = kind(perspective(points)), kind(1 / points[:, 2])
    by_point = np.stack(
        [(perspective(points + unit) - perspective(points - unit)) / (2 * step) for unit in step * np.eye(3)],
        -1,
    )
    np.testing.assert_allclose(projection_jacobian(plane, inverse_depth), by_point, atol=1e-8)

    def moved(increment: np.ndarray) -> np.ndarray:
        return perspective(transform(move_poses(np.eye(4), increment), points))

    by_pose = np.stack([(moved(unit) - moved(-unit)) / (2 * step) for unit in step * np.eye(6)], -1)
    np.testing.assert_allclose(rotation_jacobian(plane), by_pose[..., :3], atol=1e-8)
    np.testing.assert_allclose(projection_jacobian(plane, inverse_depth), by_pose[..., 3:], atol=1e-8)
