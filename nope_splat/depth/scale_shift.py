"""Scale and shift between a depth map and the world, fitted robustly to points of known depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .depth_map import Array, DepthKind

MIN_POINTS = 8
"""Fewest points of known depth that give scale and shift."""
HYPOTHESES = 500
"""Pairs of points tried: with half of all points wrong, one pair in four is good."""
ITERATIONS = 20
"""Steps of reweighted least squares."""
CAUCHY = 2.385
"""Residual in standard deviations at which the Cauchy function flattens: 95 % efficient for normal noise."""
MIN_NOISE = 1e-9
"""Relative noise below which a fit counts as exact."""


@dataclass(frozen=True)
class ScaleShift:
    """The affine function that turns the values of a depth map into depth, or, of disparity, its inverse."""

    scale: float
    """Factor, always positive."""
    shift: float
    """What is added, zero for `metric` maps."""
    kind: DepthKind
    """Of the map."""
    noise: float = 0.0
    """Standard deviation of the relative error of the depths that it was fitted to, outliers apart."""

    def depth(self, values: Array) -> Array:
        """Depth in the world's units, NaN where it would not be positive. (...) -> (...)."""
        affine = self.scale * values + self.shift
        affine = np.where(affine > 0, affine, np.nan)
        return 1 / affine if self.kind == "disparity" else affine


def fit_scale_shift(values: Array, depths: Array, kind: DepthKind, seed: int = 0) -> ScaleShift | None:
    """Fit scale and shift to points of known depth, some of which may be wrong.

    The errors that count are relative, of depth z or, for disparity, of inverse depth: |(a v + b) z - 1|.
    Least median of squares over random pairs of points (Rousseeuw 1984) finds the start that at least half of
    the points agree with; least squares, reweighted by the Cauchy function, makes the most of them.

    Args:
        values: Values of the map where the points are seen; those that are not finite do not count. (n,).
        depths: Depths of these points in the world's units; only finite and positive ones count. (n,).
        kind: Of the map.
        seed: Of the random pairs.

    Returns:
        Scale and shift, or None where the points are too few or say that the map is upside down.
    """
    known = np.isfinite(values) & np.isfinite(depths) & (depths > 0)
    values, target = values[known].astype(np.float64), depths[known].astype(np.float64)
    if len(values) < MIN_POINTS:
        return None
    if kind == "disparity":
        target = 1 / target
    columns = [values / target] if kind == "metric" else [values / target, 1 / target]
    rows = np.stack(columns, axis=1)
    size = rows.shape[1]

    samples = np.random.default_rng(seed).integers(0, len(rows), (HYPOTHESES, size))
    systems = rows[samples]
    solvable = np.abs(np.linalg.det(systems)) > 1e-12 * np.abs(systems).max(axis=(1, 2)) ** size
    starts = np.linalg.solve(systems[solvable], np.ones((int(solvable.sum()), size, 1)))[..., 0]
    starts = starts[starts[:, 0] > 0]
    if len(starts) == 0:
        return None
    errors = np.median(np.abs(starts @ rows.T - 1), axis=1)
    solution = starts[errors.argmin()]
    noise = MIN_NOISE
    for _ in range(ITERATIONS):
        residuals = rows @ solution - 1
        noise = max(1.4826 * float(np.median(np.abs(residuals))), MIN_NOISE)
        weight = 1 / (1 + (residuals / (CAUCHY * noise)) ** 2) ** 0.5
        solution = np.linalg.lstsq(weight[:, None] * rows, weight, rcond=None)[0]
    if not solution[0] > 0:
        return None
    return ScaleShift(float(solution[0]), float(solution[1]) if size == 2 else 0.0, kind, noise)
