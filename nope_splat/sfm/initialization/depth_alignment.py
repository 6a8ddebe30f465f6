"""Joint optimization of camera poses, the focal length, and the scales and shifts of depth maps.

Each match is back-projected to 3D with the depth at its keypoint in the source image, and projected into the
target image. The reprojection error depends on the poses, the focal length, and the scale and shift of the
source's depth map. No points are triangulated, so the initial poses may be inaccurate.
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
from nope_splat.sfm.mapper_options import IntrinsicsPriorOptions
from nope_splat.utils.typing import Array, Indices

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-3, increase=6.0, decrease=5.0)
"""Damping schedule of the optimization. The initial damping is larger than in bundle adjustment, because
initial poses may be inaccurate."""
MIN_FORWARD = 1e-3
"""Minimum ratio of the depth of a back-projected match in the target camera to its depth in the source
camera. With a smaller ratio, the match counts as lying behind the target camera."""


@dataclass(frozen=True)
class DepthAlignmentProblem:
    """Poses, scales and shifts of N images with depth maps, and M matches that are back-projected to 3D.

    The values v of each map are divided by m, the median of the map's values at the keypoints. A depth map
    has depth z = exp(s) (v / m + c), a disparity map has inverse depth 1 / z = exp(s) (v / m + c), where s is
    the logarithm of the scale and c the shift. The matches are grouped by the E directed pairs of images in
    which they occur.
    """

    T_camera_world: Array
    """World-to-camera transform of each image (OpenCV axes); the first pose is fixed. (N, 4, 4)."""
    log_scales: Array
    """Natural logarithm s of the scale of each depth map; the first scale is fixed. (N,)."""
    shifts: Array
    """Shift c of each depth map, in units of the median m of its values at the keypoints. (N,)."""
    log_focal: float
    """Natural logarithm of the focal length in pixels at keypoint detection resolution."""
    prior_log_focal: float
    """Mean of the prior on `log_focal`."""
    inverse: bool
    """Whether the maps are disparity maps (inverse depth) instead of depth maps."""
    free_shifts: bool
    """Whether the shifts are refined."""
    edges: Indices
    """Source and target image of each directed pair; matches are back-projected to 3D with the depth map of
    the source image. (E, 2)."""
    edge_starts: Indices
    """Index of the first match of each directed pair, followed by the total number of matches. (E + 1,)."""
    values: Array
    """v / m for each match: v is the value of the source image's depth map at the keypoint of the match, and
    m is the median of the values of this map at all keypoints of the image. (M,)."""
    xy_source: Array
    """Keypoint of each match in the source image, relative to the image center, in pixels at keypoint
    detection resolution. (M, 2)."""
    xy_target: Array
    """Keypoint of each match in the target image, relative to the image center, in pixels at keypoint
    detection resolution. (M, 2)."""
    free_focal: bool = True
    """Whether the focal length is refined."""
    shift_sigma: float = 1.0
    """Standard deviation of the Gaussian prior on the shifts, which has mean zero. The prior only matters for
    images with nearly constant depth."""
    log_focal_sigma: float = IntrinsicsPriorOptions.log_focal_sigma
    """Standard deviation of the prior on `log_focal`."""
    min_noise: float = 0.5
    """Lower limit of `noise`, the estimated standard deviation of the residuals, in pixels at keypoint
    detection resolution."""

    @cached_property
    def residuals(self) -> Array:
        """Projection of each back-projected match into the target image, minus the matched keypoint.

        Residuals are in pixels at keypoint detection resolution; they are infinite for matches behind the
        target camera. (M, 2).
        """
        by_edge = [linearize(self, edge)[0] for edge in range(len(self.edges))]
        return np.concatenate([np.zeros((0, 2)), *by_edge])

    @property
    def noise(self) -> float:
        """Standard deviation of the residuals per axis, in pixels at keypoint detection resolution.

        It is estimated from the median of the absolute residuals, and is at least `min_noise`.
        """
        residuals = self.residuals
        return max(robust_sigma(np.abs(residuals)), self.min_noise) if len(residuals) else self.min_noise


def align_depths(
    problem: DepthAlignmentProblem, max_iterations: int = 50, tolerance: float = 1e-4
) -> DepthAlignmentProblem:
    """Minimize the Cauchy cost of the residuals plus the cost of the priors, by Levenberg-Marquardt.

    The width of the Cauchy loss is proportional to the noise of the residuals. Each step estimates the noise
    again, because the noise decreases as the poses become more accurate.

    Args:
        problem: Matches and initial variables.
        max_iterations: Maximum number of accepted steps.
        tolerance: The iteration stops when a step reduces the cost by less than this fraction of the cost.

    Returns:
        The problem with optimized variables.
    """
    config = replace(SOLVER, max_iterations=max_iterations, tolerance=tolerance)
    return levenberg_marquardt(_DepthAlignment(), problem, config).state


class _DepthAlignment:
    """Adapter from depth alignment to the `Problem` interface of `levenberg_marquardt`."""

    def linearize(self, state: DepthAlignmentProblem) -> _DepthLinearization:
        noise = state.noise
        return _DepthLinearization(*_normal_equations(state, noise), noise, _cost(state, noise))

    def retract(self, state: DepthAlignmentProblem, step: Array) -> DepthAlignmentProblem:
        return _retract(state, step)


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
    """Compute the residuals and Jacobians of the matches of one directed pair.

    In the source camera, a match has the viewing ray x, scaled to depth one, and the inverse depth w. With
    the relative pose (R, t) from source to target, the match is projected along the direction D = R x + w t,
    which is finite even for infinite depth (w = 0). The columns of the Jacobian are the pose increments of
    the source (6) and of the target (6; see `rigid.move_poses`), the logarithmic scale s and the shift c of
    the source, and the logarithm of the focal length.

    Args:
        problem: Variables and matches.
        edge: Index of the directed pair.

    Returns:
        Residuals (projection minus keypoint in the target image) in pixels at keypoint detection resolution
        (m, 2), and their derivatives (m, 2, 15). For matches behind the target camera, the residuals are
        infinite and the derivatives zero.
    """
    rows = slice(*problem.edge_starts[edge : edge + 2])
    source, target = problem.edges[edge]
    focal = np.exp(problem.log_focal)
    T_source, T_target = problem.T_camera_world[source], problem.T_camera_world[target]
    R = T_target[:3, :3] @ T_source[:3, :3].T
    t = T_target[:3, 3] - R @ T_source[:3, 3]
    ray = unproject(problem.xy_source[rows], focal)
    scale = np.exp(problem.log_scales[source])
    affine = scale * (problem.values[rows] + problem.shifts[source])
    with np.errstate(divide="ignore"):
        w = affine if problem.inverse else 1 / affine
    D = ray @ R.T + w[:, None] * t
    visible = np.isfinite(w) & (affine > 0) & (D[:, 2] > MIN_FORWARD)
    D, w = np.where(visible[:, None], D, [0.0, 0.0, 1.0]), np.where(visible, w, 0.0)
    plane = perspective(D)
    residual = np.where(visible[:, None], focal * plane - problem.xy_target[rows], np.inf)

    by_s, by_c = (w, scale + 0 * w) if problem.inverse else (-w, -scale * w**2)
    by_source = np.concatenate([R @ skew(ray), -w[:, None, None] * R], axis=2)
    by_target = np.concatenate([-skew(D), w[:, None, None] * np.eye(3)], axis=2)
    by_focal = -np.column_stack([ray[:, :2], 0 * w]) @ R.T
    by_scale_shift = (by_s[:, None] * t)[..., None], (by_c[:, None] * t)[..., None]
    D_jacobian = np.concatenate([by_source, by_target, *by_scale_shift, by_focal[..., None]], axis=2)
    jacobian = projection_jacobian(plane, focal / D[:, 2]) @ D_jacobian
    jacobian[:, :, 14] += focal * plane
    return residual, np.where(visible[:, None, None], jacobian, 0.0)


def _normal_equations(problem: DepthAlignmentProblem, noise: float) -> tuple[Array, Array]:
    """Compute half of the Gauss-Newton matrix of the cost, and half of the gradient of the cost.

    The cost is `_cost(problem, noise)`, where `noise` is the standard deviation of the residuals. Each of the
    N images has eight variables: six pose increments, s and c. The logarithm of the focal length is the last
    of the n = 8 N + 1 variables.

    Returns:
        Matrix (n, n) and gradient (n,).
    """
    size = 8 * len(problem.T_camera_world) + 1
    matrix, gradient = np.zeros((size, size)), np.zeros(size)
    for edge, (source, target) in enumerate(problem.edges):
        residual, jacobian = linearize(problem, edge)
        squared = (residual**2).sum(1) / noise**2
        weight = cauchy_weight(squared) / noise**2  # zero for infinite residuals
        residual = np.where(np.isfinite(residual), residual, 0.0)
        flat = (np.sqrt(weight)[:, None, None] * jacobian).reshape(-1, 15)
        # Columns of both poses, of the source's s and c, and of the focal length.
        columns = np.r_[
            8 * source : 8 * source + 6, 8 * target : 8 * target + 6, 8 * source + 6, 8 * source + 7, size - 1
        ]
        matrix[np.ix_(columns, columns)] += flat.T @ flat
        gradient[columns] += flat.T @ (np.sqrt(weight)[:, None] * residual).ravel()
    shifts = np.arange(7, size - 1, 8)
    matrix[shifts, shifts] += 1 / problem.shift_sigma**2
    gradient[shifts] += problem.shifts / problem.shift_sigma**2
    matrix[-1, -1] += 1 / problem.log_focal_sigma**2
    gradient[-1] += (problem.log_focal - problem.prior_log_focal) / problem.log_focal_sigma**2
    fixed = list(range(7)) + ([] if problem.free_shifts else shifts.tolist())
    fixed += [] if problem.free_focal else [size - 1]
    matrix[fixed] = matrix[:, fixed] = gradient[fixed] = 0
    # Variables without matches get a unit diagonal and stay unchanged.
    matrix[range(size), range(size)] += np.where(matrix.diagonal() > 0, 1e-9 * matrix.diagonal(), 1.0)
    return matrix, gradient


def _retract(problem: DepthAlignmentProblem, step: Array) -> DepthAlignmentProblem:
    """Apply a step to all variables; the logarithms of scales and focal length change by at most 0.5.

    Args:
        problem: Current variables.
        step: Increments of the eight variables of each image (six for the pose, then the logarithm of the
            scale, then the shift), followed by the increment of the logarithm of the focal length.
            (8 N + 1,).
    """
    by_image = step[:-1].reshape(-1, 8)
    return replace(
        problem,
        T_camera_world=move_poses(problem.T_camera_world, by_image[:, :6]),
        log_scales=problem.log_scales + by_image[:, 6].clip(-0.5, 0.5),
        shifts=problem.shifts + by_image[:, 7],
        log_focal=float(problem.log_focal + np.clip(step[-1], -0.5, 0.5)),
    )


def _cost(problem: DepthAlignmentProblem, noise: float) -> float:
    """Compute the Cauchy cost of the residuals plus the cost of the priors.

    Residuals of matches behind the target camera are infinite, so each squared residual, divided by the
    squared `noise`, is limited to 1e6.
    """
    squared = np.minimum((problem.residuals**2).sum(1) / noise**2, 1e6)
    matches = cauchy_cost(squared).sum()
    focal = (problem.log_focal - problem.prior_log_focal) / problem.log_focal_sigma
    return float(matches + (problem.shifts**2).sum() / problem.shift_sigma**2 + focal**2)
