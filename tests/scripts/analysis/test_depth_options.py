"""Test that a fit of scale and shift undoes the distortion of depth except for its noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nope_splat.depth import fit_scale_shift
from scripts.analysis.depth_options import distort_depth


def test_distorted_depth_fits_except_for_its_noise(tmp_path: Path) -> None:
    rows, columns = np.indices((60, 80))
    depth = (2 + 0.02 * rows + 0.01 * columns).astype(np.float32)
    depth[:3] = np.nan
    (tmp_path / "depth").mkdir()
    for name in ("a", "b"):
        np.savez(tmp_path / "depth" / f"{name}.npz", depth=depth)
    distort_depth(tmp_path, tmp_path / "maps", noise=0.05)
    fits = []
    for name in ("a", "b"):
        values = np.load(tmp_path / "maps" / f"{name}.npz")["depth"]
        np.testing.assert_array_equal(np.isnan(values), np.isnan(depth))
        fit = fit_scale_shift(values.ravel(), depth.ravel(), "disparity")
        assert fit is not None
        assert fit.noise == pytest.approx(0.05, rel=0.5)
        fits.append(fit.scale)
    assert abs(np.log(fits[0] / fits[1])) > 0.1  # each map has a separate scale
