"""Projection: agrees with OpenCV and finite differences, for arrays and tensors."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from nope_splat.geometry.camera import Camera, project_errors
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.projection import (
    LensModel,
    equidistant,
    equidistant_jacobian,
    is_visible,
    perspective,
    project,
    projection_jacobian,
    rotation_jacobian,
    unproject,
)
from nope_splat.geometry.rigid import move_poses, transform

FOCAL, TERMS = 700.0, np.array([-0.12, 0.03, 0.0, 0.0, 1e-3, -2e-3])
FISHEYE_TERMS = np.array([0.02, -0.01, 0.003, -0.0003, 0.0, 0.0])
KINDS = [np.asarray, torch.from_numpy]


def camera_points(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(1)
    depth = rng.uniform(1.0, 5.0, (count, 1))
    return np.concatenate([depth * rng.uniform(-0.6, 0.6, (count, 2)), depth], axis=1)


def opencv_pixels(points: np.ndarray, center: np.ndarray) -> np.ndarray:
    K = np.array([[FOCAL, 0, center[0]], [0, FOCAL, center[1]], [0, 0, 1]])
    terms = TERMS[[0, 1, 4, 5]]
    return cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, terms)[0][:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_projection_agrees_with_opencv(kind: Any) -> None:
    points = camera_points()
    pixels = project(kind(points), FOCAL, LensModel(kind(TERMS)))
    np.testing.assert_allclose(pixels, opencv_pixels(points, np.zeros(2)), atol=1e-9)


def test_camera_agrees_with_opencv() -> None:
    points, size = camera_points(), np.array([640, 480])
    camera = Camera(FOCAL, (3.0, -2.0), tuple(TERMS.tolist()))
    expected = opencv_pixels(points, size / 2 + camera.offset)
    np.testing.assert_allclose(camera.project(points, size), expected, atol=1e-9)
    rays = camera.unproject(expected, size)
    np.testing.assert_allclose(rays, points / points[:, 2:], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_unproject_inverts_project(kind: Any) -> None:
    points = camera_points()
    for lens in (None, LensModel(kind(TERMS))):
        rays = unproject(project(kind(points), FOCAL, lens), FOCAL, lens)
        np.testing.assert_allclose(rays, points / points[:, 2:], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_limited_behind_the_camera(kind: Any) -> None:
    behind = kind(np.array([[1.0, 2.0, -3.0]]))
    np.testing.assert_array_equal(perspective(behind, min_depth=0.5), [[2.0, 4.0]])
    np.testing.assert_array_equal(perspective(behind, 10.0, 0.5), [[20.0, 40.0]])


def test_errors_are_infinite_behind_the_camera() -> None:
    points = np.array([[0.1, 0.2, 2.0], [0.1, 0.2, -2.0], [0.1, 0.2, 0.0]])
    focal, offset, lens = np.full(3, FOCAL), np.zeros((3, 2)), LensModel(np.tile(TERMS, (3, 1)))
    seen = FOCAL * distort(points[:1, :2] / 2, TERMS) + [3.0, 4.0]
    errors = project_errors(points, np.tile(seen, (3, 1)), focal, offset, lens)
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


def fisheye_points(count: int = 40) -> np.ndarray:
    """Points up to 120 degrees from the optical axis, at random distances; the first one is on the axis."""
    rng = np.random.default_rng(2)
    angle, direction = rng.uniform(0, np.radians(120), count), rng.uniform(0, 2 * np.pi, count)
    angle[:3] = 0.0, 1e-6, 1e-3
    rays = np.stack(
        [np.sin(angle) * np.cos(direction), np.sin(angle) * np.sin(direction), np.cos(angle)], axis=1
    )
    return rays * rng.uniform(1.0, 5.0, (count, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_fisheye_projection_agrees_with_opencv(kind: Any) -> None:
    points = fisheye_points()
    points = points[points[:, 2] > 0.1]
    K = np.diag([FOCAL, FOCAL, 1.0])
    expected = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, FISHEYE_TERMS[:4])[0]
    pixels = project(kind(points), FOCAL, LensModel(kind(FISHEYE_TERMS), True))
    np.testing.assert_allclose(pixels, expected[:, 0], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_fisheye_rays_point_to_their_points_beside_and_behind_the_camera(kind: Any) -> None:
    points, lens = fisheye_points(), LensModel(kind(FISHEYE_TERMS), True)
    rays = unproject(project(kind(points), FOCAL, lens), FOCAL, lens)
    np.testing.assert_allclose(rays, points / np.linalg.norm(points, axis=1, keepdims=True), atol=1e-11)
    assert is_visible(kind(points), True).all()


@pytest.mark.parametrize("kind", KINDS)
def test_fisheye_jacobian_matches_finite_differences(kind: Any) -> None:
    points, step = fisheye_points(), 1e-6
    expected = np.stack(
        [(equidistant(points + unit) - equidistant(points - unit)) / (2 * step) for unit in step * np.eye(3)],
        -1,
    )
    np.testing.assert_allclose(equidistant_jacobian(kind(points)), expected, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_each_point_can_have_its_own_lens(kind: Any) -> None:
    points = camera_points(2)
    lens = LensModel(kind(np.stack([TERMS, FISHEYE_TERMS])), kind(np.array([False, True])))
    pixels = project(kind(points), FOCAL, lens)
    for row, flag in enumerate((False, True)):
        alone = LensModel(lens.distortion[row], flag)
        np.testing.assert_allclose(pixels[row], project(kind(points[row]), FOCAL, alone), rtol=1e-15)
    rays = unproject(pixels, FOCAL, lens)
    np.testing.assert_allclose(rays[0], points[0] / points[0, 2], atol=1e-12)
    np.testing.assert_allclose(rays[1], points[1] / np.linalg.norm(points[1]), atol=1e-12)


def test_gradients_on_the_axis_of_a_fisheye_lens_are_finite() -> None:
    points = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0]], requires_grad=True)
    equidistant(points).sum().backward()
    assert points.grad is not None
    assert points.grad[0].isfinite().all()
    xy = torch.zeros(1, 2, requires_grad=True)
    unproject(xy, 10.0, LensModel(torch.zeros(6), True)).sum().backward()
    assert xy.grad is not None
    assert xy.grad.isfinite().all()
