"""Robust noise scales, and robust costs with their weights."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch

from nope_splat.geometry.robust import (
    MAD_TO_SIGMA,
    NORMAL_IQR,
    RAYLEIGH_MEDIAN,
    cauchy_cost,
    cauchy_weight,
    huber_cost,
    huber_weight,
    robust_sigma,
)


def test_robust_sigma_with_outliers() -> None:
    values = np.random.default_rng(0).normal(0, 3.0, 20_000)
    assert robust_sigma(np.abs(values)) == pytest.approx(3.0, rel=0.02)
    values[::20] = 1e6
    assert robust_sigma(np.abs(values)) == pytest.approx(3.0, rel=0.1)


def test_arrays_and_tensors_agree() -> None:
    values = np.random.default_rng(1).random(101)
    assert robust_sigma(values) == robust_sigma(torch.from_numpy(values))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(("cost", "weight"), [(cauchy_cost, cauchy_weight), (huber_cost, huber_weight)])
def test_weights_are_the_derivatives_of_costs(kind: Any, cost: Any, weight: Any) -> None:
    length, step = np.linspace(0.1, 6.0, 60), 1e-6  # no value is at the kink of the Huber weight
    slope = (cost((length + step) ** 2) - cost((length - step) ** 2)) / (2 * step)
    argument = length**2 if weight is cauchy_weight else length
    np.testing.assert_allclose(2 * weight(kind(argument)) * kind(length), slope, rtol=1e-7)
    np.testing.assert_allclose(cost(kind(length**2)), cost(length**2))


def test_huber_cost_has_a_gradient_at_zero() -> None:
    squared = torch.zeros(3, requires_grad=True)
    huber_cost(squared).sum().backward()
    torch.testing.assert_close(squared.grad, torch.ones(3))


@pytest.mark.parametrize(("weight", "squares"), [(cauchy_weight, True), (huber_weight, False)])
def test_efficiency_for_normal_noise_is_95_percent(weight: Any, squares: bool) -> None:
    residuals = np.linspace(-8, 8, 200_001)
    density = np.exp(-(residuals**2) / 2)
    density /= density.sum()
    influence = residuals * weight(residuals**2 if squares else np.abs(residuals))
    slope = np.gradient(influence, residuals)
    efficiency = (density @ slope) ** 2 / (density @ influence**2)
    assert efficiency == pytest.approx(0.95, abs=1e-3)


def test_constants_are_those_of_the_normal_distribution() -> None:
    normal = NormalDist()
    assert 1 / normal.inv_cdf(0.75) == pytest.approx(MAD_TO_SIGMA, abs=1e-4)
    assert 2 * normal.inv_cdf(0.75) == pytest.approx(NORMAL_IQR, abs=1e-3)
    lengths = np.linalg.norm(np.random.default_rng(0).normal(0, 1, (100_000, 2)), axis=1)
    assert np.median(lengths) == pytest.approx(RAYLEIGH_MEDIAN, rel=0.01)
