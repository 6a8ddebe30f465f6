"""Scales of noise that outliers do not move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nope_splat.geometry.robust import robust_sigma


def test_noise_among_outliers_keeps_its_scale() -> None:
    values = np.random.default_rng(0).normal(0, 3.0, 20_000)
    assert robust_sigma(np.abs(values)) == pytest.approx(3.0, rel=0.02)
    values[::20] = 1e6
    assert robust_sigma(np.abs(values)) == pytest.approx(3.0, rel=0.1)


def test_arrays_and_tensors_agree() -> None:
    values = np.random.default_rng(1).random(101)
    assert robust_sigma(values) == robust_sigma(torch.from_numpy(values))
