"""Division model: inverse to fisheye lenses, linear epipolar constraint, and errors in pixels."""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.division import DivisionLens, division_errors
from nope_splat.geometry.epipolar import essential_matrix, sampson_errors
from nope_splat.geometry.rigid import rigid, rotation_exp, transform

SIZE = (640.0, 480.0)


def pixels(rays: np.ndarray, lens: DivisionLens, focal: float) -> np.ndarray:
    """Project rays with the division model, by bisection over the radius."""
    angle = np.arctan2(np.linalg.norm(rays[:, :2], axis=1), rays[:, 2])
    ratio = focal / lens.half_diagonal
    low, high = np.zeros(len(rays)), np.full(len(rays), 3.0)
    for _ in range(60):
        middle = (low + high) / 2
        too_far = np.arctan2(middle, ratio * (1 + lens.coefficient * middle**2)) > angle
        low, high = np.where(too_far, low, middle), np.where(too_far, middle, high)
    direction = rays[:, :2] / np.linalg.norm(rays[:, :2], axis=1, keepdims=True)
    return lens.half_diagonal * low[:, None] * direction + np.array(SIZE) / 2


def test_straight_lens_gives_pixels() -> None:
    xy = np.array([[10.0, 20.0], [600.0, 400.0]])
    lens = DivisionLens(SIZE, 0.0)
    homogeneous = lens.homogeneous(xy) @ lens.pixels_from_homogeneous.T
    np.testing.assert_allclose(homogeneous, [[10, 20, 1], [600, 400, 1]])
    np.testing.assert_allclose(lens.pinhole_pixels(xy), xy - np.array(SIZE) / 2)


def test_epipolar_constraint_is_linear_also_behind_the_camera() -> None:
    rng = np.random.default_rng(0)
    lens, focal = DivisionLens(SIZE, -1.1), 220.0
    T = rigid(rotation_exp(np.array([0.1, -0.2, 0.05])), np.array([1.0, 0.2, 0.1]))
    angle, direction = rng.uniform(0.05, np.radians(100), 100), rng.uniform(0, 2 * np.pi, 100)
    rays = np.stack(
        [np.sin(angle) * np.cos(direction), np.sin(angle) * np.sin(direction), np.cos(angle)], axis=1
    )
    points = rays * rng.uniform(3, 8, (100, 1))
    xy = pixels(points, lens, focal), pixels(transform(T, points), lens, focal)
    to_rays = np.diag([lens.half_diagonal, lens.half_diagonal, focal])
    F = to_rays @ essential_matrix(T) @ to_rays
    homogeneous = lens.homogeneous(xy[0]), lens.homogeneous(xy[1])
    gradients = lens.gradient(xy[0]), lens.gradient(xy[1])
    scales = lens.half_diagonal, lens.half_diagonal
    assert division_errors(homogeneous, gradients, F, scales).max() < 1e-6
    moved = xy[1] + [0.0, 0.01]
    errors = division_errors(
        (homogeneous[0], lens.homogeneous(moved)), (gradients[0], lens.gradient(moved)), F, scales
    )
    assert errors.max() <= 0.0101


def test_errors_without_distortion_are_sampson_errors() -> None:
    rng = np.random.default_rng(1)
    lens, F = DivisionLens(SIZE, 0.0), rng.normal(size=(3, 3))
    xy = rng.uniform(0, 480, (2, 20, 2))
    homogeneous = lens.homogeneous(xy[0]), lens.homogeneous(xy[1])
    gradients = lens.gradient(xy[0]), lens.gradient(xy[1])
    found = division_errors(homogeneous, gradients, F, (lens.half_diagonal, lens.half_diagonal))
    expected = sampson_errors(*homogeneous, F, lens.half_diagonal, lens.half_diagonal)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("field_of_view", [90, 120, 150])
def test_fisheye_lens_resembles_the_division_model(field_of_view: float) -> None:
    focal = np.linalg.norm(SIZE) / np.radians(field_of_view)
    half = np.radians(field_of_view) / 2
    lens = DivisionLens(SIZE, half / np.tan(half) - 1)  # an equidistant lens with this diagonal
    terms = np.zeros(6)
    terms[:2] = lens.fisheye_terms(focal)
    angles = np.stack([np.linspace(0.01, half, 20), np.zeros(20)], axis=1)
    np.testing.assert_allclose(distort(angles, terms), angles, atol=0.02)


def test_points_beside_the_camera_have_no_pinhole_pixel() -> None:
    lens = DivisionLens(SIZE, -1.0)
    found = lens.pinhole_pixels(np.array([[320.0, 240.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(found[0], 0.0)
    assert np.isnan(found[1]).all()


def test_a_real_fisheye_lens_fits() -> None:
    """Near the center, the division model and the camera agree."""
    camera = Camera(300.0, is_fisheye=True)
    rays = camera.unproject(np.array([[400.0, 260.0]]), np.array(SIZE).astype(int))
    assert np.linalg.norm(rays) == pytest.approx(1.0)
