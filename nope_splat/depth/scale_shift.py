"""Scale and shift between a depth map and the world, fitted robustly to points of known depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nope_splat.depth.depth_map import Array, DepthKind
from nope_splat.geometry.robust import CAUCHY, cauchy_weight, robust_sigma

MIN_POINTS = 8
"""Fewest points of known depth that give scale and shift."""
HYPOTHESES = 500
"""Pairs of points tried: with half of all points wrong, one pair in four is good."""
ITERATIONS = 20
"""Steps of reweighted least squares."""
MIN_NOISE = 1e-9
"""Relative noise below which a fit counts as exact."""
USUAL_NOISE = 0.05
"""Relative noise of a good depth map: who agrees within that agrees, and not better for agreeing better."""
MIN_SIGMAS = 3.0
"""Standard deviations from zero of a scale that the points determine beside a shift."""
MAX_LOSS = 2.0
"""Factor by which the noise may grow where the shift is left out: more, and the map is wrong."""


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
    Of random pairs of points, the one with whose scale and shift most points agree gives the start (MSAC,
    Torr and Zisserman 2000). The noise at which they agree is the least median (Rousseeuw 1984), but not less
    than is usual: most points may share one depth, and a scale of zero, with a shift alone, fits those best.
    Least squares, reweighted by the Cauchy function, makes the most of the points. Where they differ too
    little in depth to determine a shift, there is none.

    Args:
        values: Values of the map where the points are seen; those that are not finite do not count. (n,).
        depths: Depths of these points in the world's units; only finite and positive ones count. (n,).
        kind: Of the map.
        seed: Of the random pairs.

    Returns:
        Scale and shift, or None where the points are too few or contradict the map.
    """
    known = np.isfinite(values) & np.isfinite(depths) & (depths > 0)
    values, target = values[known].astype(np.float64), depths[known].astype(np.float64)
    if len(values) < MIN_POINTS:
        return None
    if kind == "disparity":
        target = 1 / target
    scales, shifts = values / target, 1 / target
    shiftless = _fit(scales[:, None], seed)
    if kind == "metric":
        chosen = shiftless
    else:
        chosen = _fit(np.stack([scales, shifts], axis=1), seed)
        if chosen is None or abs(chosen.solution[0]) < MIN_SIGMAS * chosen.scale_sigma:
            limit = MAX_LOSS * max(USUAL_NOISE, 0.0 if chosen is None else chosen.noise)
            chosen = shiftless if shiftless is not None and shiftless.noise <= limit else None
    if chosen is None or chosen.solution[0] <= 0:
        return None
    scale, shift = (*chosen.solution.tolist(), 0.0)[:2]
    return ScaleShift(scale, shift, kind, chosen.noise)


class _Fit(NamedTuple):
    """A robust solution of `rows @ solution = 1`."""

    solution: Array
    noise: float
    scale_sigma: float
    """Standard deviation of the first unknown."""


def _fit(rows: Array, seed: int) -> _Fit | None:
    """Solve `rows @ solution = 1` for one or two unknowns; None where no pair of rows does. (n, 1 or 2)."""
    size = rows.shape[1]
    samples = np.random.default_rng(seed).integers(0, len(rows), (HYPOTHESES, size))
    systems = rows[samples]
    solvable = np.abs(np.linalg.det(systems)) > 1e-12 * np.abs(systems).max(axis=(1, 2)) ** size
    starts = np.linalg.solve(systems[solvable], np.ones((int(solvable.sum()), size, 1)))[..., 0]
    if len(starts) == 0:
        return None
    errors = np.abs(starts @ rows.T - 1)
    least = np.median(errors, axis=1).argmin()
    noise = max(robust_sigma(errors[least]), USUAL_NOISE)
    solution = starts[(np.minimum(errors / (CAUCHY * noise), 1) ** 2).sum(axis=1).argmin()]
    weight = np.ones(len(rows))
    for _ in range(ITERATIONS):
        residuals = rows @ solution - 1
        noise = max(robust_sigma(np.abs(residuals)), MIN_NOISE)
        weight = cauchy_weight((residuals / noise) ** 2) ** 0.5
        solution = np.linalg.lstsq(weight[:, None] * rows, weight, rcond=None)[0]
    covariance = noise**2 * np.linalg.pinv((weight[:, None] * rows).T @ (weight[:, None] * rows))
    return _Fit(solution, noise, float(covariance[0, 0] ** 0.5))
