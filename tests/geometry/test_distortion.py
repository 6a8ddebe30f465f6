"""Lens distortion: its inverse, its derivatives, and the same formulas for arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from nope_splat.geometry.distortion import (
    distort,
    distortion_jacobian,
    distortion_term_jacobian,
    radial_scale,
    radial_slope,
    turn_distortion,
    undistort,
)

Terms = tuple[float, float, float, float, float, float]
LENSES: list[Terms] = [
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (-0.12, 0.03, 0.0, 0.0, 0.0, 0.0),
    (0.15, -0.05, 0.0, 0.0, 3e-3, -2e-3),
    (0.02, -0.01, 0.003, -0.001, 0.0, 0.0),
]


def plane_points(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.7, 0.7, (count, 2))


def central_differences(function: Any, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Differentiate a vector function of each row numerically. (n, k) -> (n, m, k)."""
    columns = []
    for unit in step * np.eye(at.shape[1]):
        columns.append((function(at + unit) - function(at - unit)) / (2 * step))
    return np.stack(columns, -1)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_undistort_inverts_distort(lens: Terms, kind: Any) -> None:
    plane, terms = kind(plane_points()), kind(np.array(lens))
    np.testing.assert_allclose(undistort(distort(plane, terms), terms), plane, atol=1e-13)
    np.testing.assert_allclose(distort(undistort(plane, terms), terms), plane, atol=1e-13)


@pytest.mark.parametrize("lens", LENSES)
def test_arrays_and_tensors_agree(lens: Terms) -> None:
    plane, terms = plane_points(), np.array(lens)
    for function in (distort, undistort, distortion_jacobian):
        by_tensor = function(torch.from_numpy(plane), torch.from_numpy(terms))
        np.testing.assert_allclose(function(plane, terms), by_tensor, rtol=0, atol=1e-14)
    by_tensor = distortion_term_jacobian(torch.from_numpy(plane))
    np.testing.assert_allclose(distortion_term_jacobian(plane), by_tensor, rtol=1e-14)


def test_distortion_can_differ_between_points() -> None:
    plane, terms = plane_points(4), np.array(LENSES)
    for function in (distort, undistort, distortion_jacobian):
        by_point = [function(plane[index], terms[index]) for index in range(4)]
        np.testing.assert_allclose(function(plane, terms), by_point, rtol=0, atol=1e-15)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_jacobians_match_finite_differences(lens: Terms, kind: Any) -> None:
    plane, terms = plane_points(), np.array(lens)
    expected = central_differences(lambda points: distort(points, terms), plane)
    np.testing.assert_allclose(distortion_jacobian(kind(plane), kind(terms)), expected, atol=1e-9)
    repeated = np.tile(terms, (len(plane), 1))
    expected = central_differences(lambda varied: distort(plane, varied), repeated)
    np.testing.assert_allclose(distortion_term_jacobian(kind(plane)), expected, atol=1e-9)


def test_slope_is_the_derivative_of_the_radius() -> None:
    radius, terms = np.linspace(0.1, 0.9, 9)[:, None], LENSES[3]
    expected = central_differences(lambda r: r * radial_scale(r**2, terms), radius)[..., 0]
    np.testing.assert_allclose(radial_slope(radius**2, terms), expected, atol=1e-9)


@pytest.mark.parametrize("lens", LENSES)
def test_gradients_of_undistort_are_those_of_the_inverse(lens: Terms) -> None:
    terms = torch.tensor(lens, dtype=torch.float64)
    for point in torch.from_numpy(plane_points(4)):
        by_point = jacobian(lambda p: undistort(p, terms), point)
        forward = distortion_jacobian(undistort(point, terms), terms)
        torch.testing.assert_close(by_point, torch.linalg.inv(forward))


def test_gradients_of_undistort_by_the_coefficients_match_finite_differences() -> None:
    point = torch.tensor([0.4, -0.3], dtype=torch.float64)
    for lens in LENSES:
        terms = torch.tensor(lens, dtype=torch.float64, requires_grad=True)
        by_terms = jacobian(lambda varied: undistort(point, varied), terms)
        expected = central_differences(
            lambda varied: undistort(point.numpy()[None], varied), np.array(lens)[None]
        )
        np.testing.assert_allclose(by_terms, expected[0], atol=1e-8)


@pytest.mark.parametrize("turn", [[[0.0, -1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]]])
def test_turned_distortion_moves_turned_points(turn: list[list[float]]) -> None:
    plane, terms, turns = plane_points(), np.array(LENSES[2]), np.array(turn)
    turned = distort(plane @ turns.T, turn_distortion(terms, turns))
    np.testing.assert_allclose(turned, distort(plane, terms) @ turns.T, atol=1e-15)
