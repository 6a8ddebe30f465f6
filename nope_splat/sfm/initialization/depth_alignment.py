"""Joint adjustment of cameras and of the scales and shifts of depth maps, by matches lifted with that depth.

A match between two images is lifted to space by the depth that one map tells at its keypoint, and
projected into the other image: where it misses the other keypoint, the cameras, the focal length, or the
scale and shift of the map are wrong. No points are triangulated, so that cameras may be far off at first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.geometry.projection import perspective, projection_jacobian, unproject
from nope_splat.geometry.rigid import move_poses, skew
from nope_splat.geometry.robust import cauchy_cost, cauchy_weight, robust_sigma
from nope_splat.sfm.state import LOG_FOCAL_SIGMA
from nope_splat.utils.typing import Array, Indices

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-3, increase=6.0, decrease=5.0)
"""More damping at first than bundle adjustment has: cameras may start far off."""
SHIFT_SIGMA = 1.0
"""Standard deviation of the prior on the shift of a map, in units of the median of its values: weak, it holds
what an image without relief leaves open."""
MIN_NOISE = 0.5
"""Least standard deviation of the residuals that is believed, feature pixels."""
MIN_FORWARD = 1e-3
"""Part along the other camera's axis below which a direction of length about one does not reach its image."""


@dataclass(frozen=True)
class DepthAlignmentProblem:
    """Cameras, scales and shifts, and the matches that they are to bring together.

    The values of each map are divided by their median, m. A map of depth says z = exp(s) (v / m + c), one of
    disparity 1 / z = exp(s) (v / m + c).
    """

    T_camera_world: Array
    """World-to-camera transforms, OpenCV axes; that of the first camera stays. (C, 4, 4)."""
    log_scales: Array
    """The s of each map; that of the first stays. (C,)."""
    shifts: Array
    """The c of each map. (C,)."""
    log_focal: float
    """Natural logarithm of the focal length in feature pixels."""
    prior_log_focal: float
    """Mean of the prior on it."""
    inverse: bool
    """Whether the maps are of disparity."""
    free_shifts: bool
    """Whether the shifts may change."""
    edges: Indices
    """Cameras of each directed pair: whose depth lifts, and which is projected into. (E, 2)."""
    starts: Indices
    """First match of each edge, and the number of matches at the end. (E + 1,)."""
    values: Array
    """Value of the lifting map at each match, divided by its median. (M,)."""
    xy_from: Array
    """Keypoint in the lifting image, feature pixels from the image center. (M, 2)."""
    xy_to: Array
    """Keypoint in the other image, likewise. (M, 2)."""
    free_focal: bool = True
    """Whether the focal length may change."""

    @cached_property
    def residuals(self) -> Array:
        """Projection of each lifted match minus its keypoint.

        In feature pixels, infinite where the match is not in front of the other camera. (M, 2).
        """
        by_edge = [linearize(self, edge)[0] for edge in range(len(self.edges))]
        return np.concatenate([np.zeros((0, 2)), *by_edge])


def align_depths(
    problem: DepthAlignmentProblem, max_iterations: int = 50, tolerance: float = 1e-4
) -> DepthAlignmentProblem:
    """Minimize the Cauchy cost of the residuals plus the priors, by Levenberg-Marquardt.

    The noise is estimated anew, by the median, at every step: it is large as long as the cameras are wrong.

    Args:
        problem: Start.
        max_iterations: Largest number of accepted steps.
        tolerance: Stop when a step lowers the cost by less than this share.

    Returns:
        The problem with its variables adjusted.
    """
    config = replace(SOLVER, max_iterations=max_iterations, tolerance=tolerance)
    return levenberg_marquardt(_DepthAlignment(), problem, config).state


class _DepthAlignment:
    """Depth alignment as a problem of `levenberg_marquardt`."""

    def linearize(self, state: DepthAlignmentProblem) -> _DepthLinearization:
        noise = _noise(state.residuals)
        return _DepthLinearization(*_equations(state, noise), noise, _cost(state, noise))

    def retract(self, state: DepthAlignmentProblem, step: Array) -> DepthAlignmentProblem:
        return _moved(state, step)


class _DepthLinearization(NamedTuple):
    matrix: Array
    gradient: Array
    noise: float
    cost: float

    def solve(self, damping: float) -> Array:
        return np.linalg.solve(self.matrix + damping * np.diag(self.matrix.diagonal()), -self.gradient)

    def evaluate(self, candidate: DepthAlignmentProblem) -> float:
        return _cost(candidate, self.noise)


def linearize(problem: DepthAlignmentProblem, edge: int) -> tuple[Array, Array]:
    """Residuals and Jacobians of one directed pair.

    With the ray x of a match at depth one, the relative pose (R, t) and the inverse depth w, the match is
    seen in the direction D = R x + w t, which stays finite where w is zero. The columns are the increments of
    the lifting and of the other camera (see `rigid.move_poses`), s, c, and the log focal length.

    Args:
        problem: Variables and matches.
        edge: Index of the pair.

    Returns:
        Residuals in feature pixels, infinite where the match is not in front of the other camera (m, 2), and
        their derivatives, zero there (m, 2, 15).
    """
    rows = slice(*problem.starts[edge : edge + 2])
    one, other = problem.edges[edge]
    focal = np.exp(problem.log_focal)
    T_one, T_other = problem.T_camera_world[one], problem.T_camera_world[other]
    R = T_other[:3, :3] @ T_one[:3, :3].T
    t = T_other[:3, 3] - R @ T_one[:3, 3]
    ray = unproject(problem.xy_from[rows], focal)
    scale = np.exp(problem.log_scales[one])
    affine = scale * (problem.values[rows] + problem.shifts[one])
    with np.errstate(divide="ignore"):
        w = affine if problem.inverse else 1 / affine
    D = ray @ R.T + w[:, None] * t
    seen = np.isfinite(w) & (affine > 0) & (D[:, 2] > MIN_FORWARD)
    D, w = np.where(seen[:, None], D, [0.0, 0.0, 1.0]), np.where(seen, w, 0.0)
    plane = perspective(D)
    residual = np.where(seen[:, None], focal * plane - problem.xy_to[rows], np.inf)

    by_w, by_c = (w, scale + 0 * w) if problem.inverse else (-w, -scale * w**2)
    by_one = np.concatenate([R @ skew(ray), -w[:, None, None] * R], axis=2)
    by_other = np.concatenate([-skew(D), w[:, None, None] * np.eye(3)], axis=2)
    by_ray = -np.column_stack([ray[:, :2], 0 * w]) @ R.T
    along = np.concatenate(
        [by_one, by_other, (by_w[:, None] * t)[..., None], (by_c[:, None] * t)[..., None], by_ray[..., None]],
        axis=2,
    )
    jacobian = projection_jacobian(plane, focal / D[:, 2]) @ along
    jacobian[:, :, 14] += focal * plane
    return residual, np.where(seen[:, None, None], jacobian, 0.0)


def _equations(problem: DepthAlignmentProblem, noise: float) -> tuple[Array, Array]:
    """Half the Hessian of the cost, by Gauss and Newton, and half its gradient. (n, n), (n,).

    Each of C cameras has eight variables, the six increments of its pose, s and c; the focal length comes
    last: n = 8 C + 1.
    """
    size = 8 * len(problem.T_camera_world) + 1
    matrix, gradient = np.zeros((size, size)), np.zeros(size)
    for edge, (one, other) in enumerate(problem.edges):
        residual, jacobian = linearize(problem, edge)
        squared = (residual**2).sum(1) / noise**2
        weight = cauchy_weight(squared) / noise**2  # zero where infinite
        residual = np.where(np.isfinite(residual), residual, 0.0)
        flat = (np.sqrt(weight)[:, None, None] * jacobian).reshape(-1, 15)
        # The columns of the two cameras, of s and c of the first, and of the focal length.
        columns = np.r_[8 * one : 8 * one + 6, 8 * other : 8 * other + 6, 8 * one + 6, 8 * one + 7, size - 1]
        matrix[np.ix_(columns, columns)] += flat.T @ flat
        gradient[columns] += flat.T @ (np.sqrt(weight)[:, None] * residual).ravel()
    shifts = np.arange(7, size - 1, 8)
    matrix[shifts, shifts] += 1 / SHIFT_SIGMA**2
    gradient[shifts] += problem.shifts / SHIFT_SIGMA**2
    matrix[-1, -1] += 1 / LOG_FOCAL_SIGMA**2
    gradient[-1] += (problem.log_focal - problem.prior_log_focal) / LOG_FOCAL_SIGMA**2
    fixed = list(range(7)) + ([] if problem.free_shifts else shifts.tolist())
    fixed += [] if problem.free_focal else [size - 1]
    matrix[fixed] = matrix[:, fixed] = gradient[fixed] = 0
    # What no match speaks of stays where it is.
    matrix[range(size), range(size)] += np.where(matrix.diagonal() > 0, 1e-9 * matrix.diagonal(), 1.0)
    return matrix, gradient


def _moved(problem: DepthAlignmentProblem, step: Array) -> DepthAlignmentProblem:
    """The problem after a step of all its variables. (8 C + 1,)."""
    cameras = step[:-1].reshape(-1, 8)
    return replace(
        problem,
        T_camera_world=move_poses(problem.T_camera_world, cameras[:, :6]),
        log_scales=problem.log_scales + cameras[:, 6].clip(-0.5, 0.5),
        shifts=problem.shifts + cameras[:, 7],
        log_focal=float(problem.log_focal + np.clip(step[-1], -0.5, 0.5)),
    )


def _cost(problem: DepthAlignmentProblem, noise: float) -> float:
    """Cauchy cost of the residuals, where infinite that of a distant one, plus the priors."""
    squared = np.minimum((problem.residuals**2).sum(1) / noise**2, 1e6)
    matches = cauchy_cost(squared).sum()
    focal = (problem.log_focal - problem.prior_log_focal) / LOG_FOCAL_SIGMA
    return float(matches + (problem.shifts**2).sum() / SHIFT_SIGMA**2 + focal**2)


def _noise(residual: Array) -> float:
    """Standard deviation of the residuals per axis, by the median of their absolute values."""
    return max(robust_sigma(np.abs(residual)), MIN_NOISE) if len(residual) else MIN_NOISE
