"""Depth maps, and their scale and shift.

- Values are found where the image shows them, whatever the size of the map; unknown ones do not spread.
- Scale and shift come back from exact values, and nearly so with noise, wrong points and NaN, of every kind.
- Points of one depth, most of them or all, do not lead the shift astray.
"""

from __future__ import annotations

import numpy as np
import pytest

from nope_splat.depth import DepthKind, DepthMap, ScaleShift, fit_scale_shift

KINDS: tuple[DepthKind, ...] = ("metric", "affine", "disparity")


def distort(depths: np.ndarray, kind: DepthKind, scale: float, shift: float) -> np.ndarray:
    """Values of a map for which `scale` and `shift` are right."""
    return ((1 / depths if kind == "disparity" else depths) - shift) / scale


@pytest.mark.parametrize("shape", [(30, 40), (48, 64), (7, 100)])
def test_a_map_of_any_size_covers_its_image(shape: tuple[int, int]) -> None:
    plane = np.array([0.02, 0.03])  # values that are linear in the image's pixels
    template = DepthMap.covering(np.zeros(shape, np.float32), "affine", (640, 480))
    positions = template.positions()
    assert positions[0, 0] == pytest.approx(np.array([320 / shape[1], 240 / shape[0]]))
    values = (positions @ plane).astype(np.float32)
    depth_map = DepthMap.covering(values, "affine", (640, 480))
    margin = np.array([640 / shape[1], 480 / shape[0]])
    xy = np.random.default_rng(0).uniform(margin, np.array([640, 480]) - margin, (50, 2))
    np.testing.assert_allclose(depth_map.sample(xy), xy @ plane, rtol=1e-5)
    corners = np.array([[0.0, 0.0], [640.0, 480.0], [640.1, 1.0], [1.0, -0.1], [np.nan, 1.0]])
    np.testing.assert_array_equal(np.isfinite(depth_map.sample(corners)), [True, True, False, False, False])


def test_a_map_of_a_part_of_the_image() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    depth_map = DepthMap(values, "metric", (10.0, 20.0), (100.0, 50.0))
    assert depth_map.positions()[1, 2] == pytest.approx((125.0, 80.0))
    np.testing.assert_allclose(depth_map.sample(depth_map.positions()), values)
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
def test_noise_wrong_points_and_nan_do_little(kind: DepthKind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depths = rng.uniform(0.5, 4, 300)
    scale, shift = 2.0, 0.0 if kind == "metric" else -0.1
    values = distort(depths * np.exp(rng.normal(0, 0.03, 300)), kind, scale, shift)
    seen = depths.copy()
    seen[:90] = rng.uniform(0.1, 20, 90)  # wrong points
    values[90:110], seen[110:120] = np.nan, np.inf
    fitted = fit_scale_shift(values, seen, kind)
    assert fitted is not None
    # 3 % / sqrt(180 good points) is 0.2 % for each of two parameters; at the ends of the range it is more.
    assert np.abs(fitted.depth(distort(depths, kind, scale, shift)) / depths - 1).max() < 0.03
    assert fitted.noise == pytest.approx(0.03, rel=1.0)


def test_no_scale_and_shift_where_nothing_tells_them() -> None:
    depths = np.linspace(1, 3, 40)
    assert fit_scale_shift(depths[:5], depths[:5], "affine") is None
    assert fit_scale_shift(np.full(40, np.nan), depths, "disparity") is None
    assert fit_scale_shift(depths, depths, "disparity") is None  # grows with depth: no disparity
    rng = np.random.default_rng(0)
    noisy = depths * np.exp(rng.normal(0, 0.1, 40))
    assert fit_scale_shift(noisy, depths, "disparity") is None
    assert (
        fit_scale_shift(rng.uniform(1, 9, 40), np.full(40, 2.0), "affine") is None
    )  # a map of something else


@pytest.mark.parametrize("kind", ["affine", "disparity"])
@pytest.mark.parametrize("seed", range(3))
def test_most_points_may_share_one_depth(kind: DepthKind, seed: int) -> None:
    """A wall takes up three quarters of the image, and says nothing of the scale beside the shift."""
    rng = np.random.default_rng(seed)
    depths = np.where(np.arange(200) < 150, 2.0, rng.uniform(0.5, 1.9, 200))
    noisy = depths * np.exp(rng.normal(0, 0.02, 200))
    fitted = fit_scale_shift(distort(noisy, kind, 0.5, 0.3), depths, kind)
    assert fitted is not None
    everywhere = np.linspace(0.5, 3.0, 20)
    np.testing.assert_allclose(fitted.depth(distort(everywhere, kind, 0.5, 0.3)), everywhere, rtol=0.1)


@pytest.mark.parametrize("kind", ["affine", "disparity"])
def test_points_of_one_depth_give_a_scale_without_a_shift(kind: DepthKind) -> None:
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.02):
        values = 3.0 * np.exp(rng.normal(0, noise, 60))
        fitted = fit_scale_shift(values, np.full(60, 2.0), kind)
        assert fitted is not None
        assert fitted.shift == 0
        assert fitted.depth(np.array([3.0])) == pytest.approx(2.0, rel=0.01)
        nearer = fitted.depth(np.array([6.0 if kind == "disparity" else 1.5]))
        assert nearer == pytest.approx(1.0, rel=0.01)


def test_depth_is_unknown_where_it_would_not_be_positive() -> None:
    depth = ScaleShift(1.0, -1.0, "disparity").depth(np.array([3.0, 1.0, 0.5, np.nan]))
    np.testing.assert_array_equal(depth, [0.5, np.nan, np.nan, np.nan])
