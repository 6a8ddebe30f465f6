"""Depth maps, and the fit of their scale and shift.

- Maps of any size are sampled at image positions; unknown values do not spread.
- Scale and shift of all kinds of maps are recovered exactly, or nearly so with noise, outliers and NaN.
- The fit is robust if most or all points have the same depth.
"""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.depth import DepthKind, DepthMap, ScaleShift, fit_scale_shift

KINDS: tuple[DepthKind, ...] = ("metric", "affine", "disparity")


def distort(depths: np.ndarray, kind: DepthKind, scale: float, shift: float) -> np.ndarray:
    """Compute the values of a map that has the given scale and shift."""
    return ((1 / depths if kind == "disparity" else depths) - shift) / scale


@pytest.mark.parametrize("shape", [(30, 40), (48, 64), (7, 100)])
def test_maps_of_any_size_are_sampled_at_image_positions(shape: tuple[int, int]) -> None:
    plane = np.array([0.02, 0.03])  # values are linear in image coordinates
    template = DepthMap.of_whole_image(np.zeros(shape, np.float32), "affine", (640, 480))
    positions = template.pixel_centers()
    assert positions[0, 0] == pytest.approx(np.array([320 / shape[1], 240 / shape[0]]))
    values = (positions @ plane).astype(np.float32)
    depth_map = DepthMap.of_whole_image(values, "affine", (640, 480))
    margin = np.array([640 / shape[1], 480 / shape[0]])
    xy = np.random.default_rng(0).uniform(margin, np.array([640, 480]) - margin, (50, 2))
    np.testing.assert_allclose(depth_map.sample(xy), xy @ plane, rtol=1e-5)
    corners = np.array([[0.0, 0.0], [640.0, 480.0], [640.1, 1.0], [1.0, -0.1], [np.nan, 1.0]])
    np.testing.assert_array_equal(np.isfinite(depth_map.sample(corners)), [True, True, False, False, False])


def test_a_map_may_cover_part_of_the_image() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    depth_map = DepthMap(values, "metric", (10.0, 20.0), (100.0, 50.0))
    assert depth_map.pixel_centers()[1, 2] == pytest.approx((125.0, 80.0))
    np.testing.assert_allclose(depth_map.sample(depth_map.pixel_centers()), values)
    assert np.isnan(depth_map.sample(np.array([99.0, 60.0])))


def test_unknown_values_stay_unknown() -> None:
    values = np.ones((6, 6), np.float32)
    values[2, 2] = np.nan
    sampled = DepthMap(values, "metric", (1.0, 1.0)).sample(np.array([[2.2, 2.8], [4.5, 4.5]]))
    np.testing.assert_array_equal(np.isnan(sampled), [True, False])


@pytest.mark.parametrize("kind", KINDS)
def test_exact_values_give_exact_scale_and_shift(kind: DepthKind) -> None:
    depths = np.random.default_rng(0).uniform(0.5, 4, 30)
    shift = 0.0 if kind == "metric" else 0.15
    fitted = fit_scale_shift(distort(depths, kind, 0.3, shift), depths, kind)
    assert fitted is not None
    assert (fitted.scale, fitted.shift) == pytest.approx((0.3, shift), abs=1e-9)
    np.testing.assert_allclose(fitted.depth(distort(depths, kind, 0.3, shift)), depths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_robust_to_noise_outliers_and_nan(kind: DepthKind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depths = rng.uniform(0.5, 4, 300)
    scale, shift = 2.0, 0.0 if kind == "metric" else -0.1
    values = distort(depths * np.exp(rng.normal(0, 0.03, 300)), kind, scale, shift)
    noisy_depths = depths.copy()
    noisy_depths[:90] = rng.uniform(0.1, 20, 90)  # outliers
    values[90:110], noisy_depths[110:120] = np.nan, np.inf
    fitted = fit_scale_shift(values, noisy_depths, kind)
    assert fitted is not None
    # 3% / sqrt(180 inliers) is 0.2% for each of the two parameters, and more at the ends of the depth range.
    assert np.abs(fitted.depth(distort(depths, kind, scale, shift)) / depths - 1).max() < 0.03
    assert fitted.noise == pytest.approx(0.03, rel=1.0)


def test_the_fit_fails_if_the_points_do_not_determine_it() -> None:
    depths = np.linspace(1, 3, 40)
    assert fit_scale_shift(depths[:5], depths[:5], "affine") is None, "too few points"
    assert fit_scale_shift(np.full(40, np.nan), depths, "disparity") is None, "no values"
    assert fit_scale_shift(depths, depths, "disparity") is None, "values increase with depth"
    rng = np.random.default_rng(0)
    noisy = depths * np.exp(rng.normal(0, 0.1, 40))
    assert fit_scale_shift(noisy, depths, "disparity") is None, "values increase with depth"
    assert fit_scale_shift(rng.uniform(1, 9, 40), np.full(40, 2.0), "affine") is None, "unrelated values"


@pytest.mark.parametrize("kind", ["affine", "disparity"])
@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_robust_if_most_points_have_the_same_depth(kind: DepthKind, seed: int) -> None:
    """A wall fills three quarters of the image; its points do not determine scale and shift at once."""
    rng = np.random.default_rng(seed)
    depths = np.where(np.arange(200) < 150, 2.0, rng.uniform(0.5, 1.9, 200))
    noisy = depths * np.exp(rng.normal(0, 0.02, 200))
    fitted = fit_scale_shift(distort(noisy, kind, 0.5, 0.3), depths, kind)
    assert fitted is not None
    all_depths = np.linspace(0.5, 3.0, 20)
    np.testing.assert_allclose(fitted.depth(distort(all_depths, kind, 0.5, 0.3)), all_depths, rtol=0.1)


@pytest.mark.parametrize("kind", ["affine", "disparity"])
def test_a_scale_without_shift_is_fitted_if_all_points_have_the_same_depth(kind: DepthKind) -> None:
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.02):
        values = 3.0 * np.exp(rng.normal(0, noise, 60))
        fitted = fit_scale_shift(values, np.full(60, 2.0), kind)
        assert fitted is not None
        assert fitted.shift == 0
        assert fitted.depth(np.array([3.0])) == pytest.approx(2.0, rel=0.01)
        nearer = fitted.depth(np.array([6.0 if kind == "disparity" else 1.5]))
        assert nearer == pytest.approx(1.0, rel=0.01)


def test_depths_that_would_not_be_positive_are_unknown() -> None:
    depth = ScaleShift(1.0, -1.0, "disparity").depth(np.array([3.0, 1.0, 0.5, np.nan]))
    np.testing.assert_array_equal(depth, [0.5, np.nan, np.nan, np.nan])
