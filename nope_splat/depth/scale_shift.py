"""Robust fit of the scale and shift of a depth map to points of known depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nope_splat.depth.depth_map import Array, DepthKind
from nope_splat.depth.options import ScaleShiftOptions
from nope_splat.geometry.robust import CAUCHY, cauchy_weight, robust_sigma

DEFAULT_OPTIONS = ScaleShiftOptions()


@dataclass(frozen=True)
class ScaleShift:
    """Scale and shift that convert the values v of a depth map to depth in world units.

    For the kind `disparity`, 1 / depth = `scale` * v + `shift`; for other kinds,
    depth = `scale` * v + `shift`.
    """

    scale: float
    """Factor by which the values of the depth map are multiplied; always positive."""
    shift: float
    """Offset added to the scaled values. Zero for `metric` maps, and if only the scale could be
    determined."""
    kind: DepthKind
    """Quantity in the depth map to which scale and shift apply."""
    noise: float = 0.0
    """Standard deviation of the relative depth errors at the inliers of the fit; 0.05 is 5 % of the depth."""

    def depth(self, values: Array) -> Array:
        """Convert values of the depth map to depth in world units.

        The depth is `scale` * value + `shift` or, for the kind `disparity`, the inverse of this sum.

        Args:
            values: Values of the depth map. (...).

        Returns:
            Depths; NaN for depths that would not be positive. (...).
        """
        affine = self.scale * values + self.shift
        affine = np.where(affine > 0, affine, np.nan)
        return 1 / affine if self.kind == "disparity" else affine


def fit_scale_shift(
    values: Array,
    depths: Array,
    kind: DepthKind,
    seed: int = 0,
    options: ScaleShiftOptions = DEFAULT_OPTIONS,
) -> ScaleShift | None:
    """Fit the scale and shift of a depth map to points of known depth, of which some may be outliers.

    For scale a, shift b and map value v at a point of depth z, residuals are relative: |(a v + b) / z - 1|
    for depth, and |(a v + b) z - 1| for disparity. The shift of metric maps is zero. MSAC (Torr and Zisserman
    2000) selects the best hypothesis from random pairs of points. To separate inliers from outliers, MSAC
    needs the noise of the inliers, which is estimated by least median of residuals (Rousseeuw 1984), but set
    to at least `typical_noise`. Without this minimum, MSAC would select a hypothesis with scale zero if most
    points have the same depth. Iteratively reweighted least squares with the Cauchy loss refines the
    hypothesis. If the depths vary too little to determine a shift, only a scale is fitted.

    Args:
        values: Values v of the map at the points; non-finite values are ignored. (n,).
        depths: Depths z of the points in world units; only finite, positive depths are used. (n,).
        kind: Quantity in the depth map.
        seed: Seed of the random point pairs.
        options: Options of the fit.

    Returns:
        Scale and shift; None if there are too few points, or the depth map does not fit the points.
    """
    known = np.isfinite(values) & np.isfinite(depths) & (depths > 0)
    values, target = values[known].astype(np.float64), depths[known].astype(np.float64)
    if len(values) < options.min_num_points:
        return None
    if kind == "disparity":
        target = 1 / target
    scale_column, shift_column = values / target, 1 / target
    scale_only = _solve_robustly(scale_column[:, None], seed, options)
    if kind == "metric":
        fit = scale_only
    else:
        fit = _solve_robustly(np.stack([scale_column, shift_column], axis=1), seed, options)
        if fit is None or abs(fit.solution[0]) < options.min_scale_sigmas * fit.scale_sigma:
            max_noise = options.max_noise_ratio * max(
                options.typical_noise, 0.0 if fit is None else fit.noise
            )
            fit = scale_only if scale_only is not None and scale_only.noise <= max_noise else None
    if fit is None or fit.solution[0] <= 0:
        return None
    scale, shift = (*fit.solution.tolist(), 0.0)[:2]
    return ScaleShift(scale, shift, kind, fit.noise)


class _RobustSolution(NamedTuple):
    """Robust solution x of the linear system `rows @ x = 1`."""

    solution: Array
    """Solution: the scale, then the shift if it is fitted. (1 or 2,)."""
    noise: float
    """Standard deviation of the relative residuals of the inliers."""
    scale_sigma: float
    """Standard deviation of the scale, the first unknown."""


def _solve_robustly(rows: Array, seed: int, options: ScaleShiftOptions) -> _RobustSolution | None:
    """Solve the overdetermined system `rows @ x = 1` for one or two unknowns, with outliers among the rows.

    Args:
        rows: Coefficients of one equation per row. (n, 1 or 2).
        seed: Seed of the random samples.
        options: Number of hypotheses and iterations, and noise limits.

    Returns:
        The solution; None if all sampled systems are singular.
    """
    num_unknowns = rows.shape[1]
    samples = np.random.default_rng(seed).integers(0, len(rows), (options.num_hypotheses, num_unknowns))
    systems = rows[samples]
    solvable = np.abs(np.linalg.det(systems)) > 1e-12 * np.abs(systems).max(axis=(1, 2)) ** num_unknowns
    right = np.ones((int(solvable.sum()), num_unknowns, 1))
    hypotheses = np.linalg.solve(systems[solvable], right)[..., 0]
    if len(hypotheses) == 0:
        return None
    errors = np.abs(hypotheses @ rows.T - 1)
    best = np.median(errors, axis=1).argmin()
    noise = max(robust_sigma(errors[best]), options.typical_noise)
    solution = hypotheses[(np.minimum(errors / (CAUCHY * noise), 1) ** 2).sum(axis=1).argmin()]
    weight = np.ones(len(rows))
    for _ in range(options.num_iterations):
        residuals = rows @ solution - 1
        noise = max(robust_sigma(np.abs(residuals)), options.min_noise)
        weight = cauchy_weight((residuals / noise) ** 2) ** 0.5
        solution = np.linalg.lstsq(weight[:, None] * rows, weight, rcond=None)[0]
    covariance = noise**2 * np.linalg.pinv((weight[:, None] * rows).T @ (weight[:, None] * rows))
    return _RobustSolution(solution, noise, float(covariance[0, 0] ** 0.5))
