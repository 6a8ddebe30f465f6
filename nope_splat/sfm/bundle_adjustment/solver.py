"""Bundle adjustment: Levenberg-Marquardt over poses, points and shared intrinsics.

The method follows Triggs et al., "Bundle Adjustment: A Modern Synthesis" (2000). The normal equations are
reweighted in each iteration for robustness. The Schur complement eliminates the points, which leaves a dense
system of the poses and the shared intrinsics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.geometry.rigid import invert, move_poses, transform
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, BundleStep, linearize, retract
from nope_splat.sfm.bundle_adjustment.schur import NormalEquations, SchurStructure

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-4, increase=6.0, decrease=5.0)
"""Damping schedule of bundle adjustment; callers set the maximum number of iterations and the tolerance."""


@dataclass(frozen=True)
class BundleResult:
    """Result of a bundle adjustment."""

    problem: BundleProblem
    """The problem with adjusted variables."""
    initial_cost: float
    """Robust cost before the adjustment, with residuals in standard deviations."""
    cost: float
    """Robust cost after the adjustment, with residuals in standard deviations."""
    iterations: int
    """Number of accepted Levenberg-Marquardt steps."""

    @property
    def noise(self) -> float:
        """Estimated ratio of the actual to the assumed standard deviation of the observations.

        The assumed standard deviation is `problem.sigma`. The estimate accounts for the degrees of freedom of
        the poses, the points and the refined intrinsics.
        """
        problem = self.problem
        unknowns = (
            6 * len(problem.T_camera_world) + 3 * len(problem.points) + int(problem.free_intrinsics.sum())
        )
        return (self.cost / max(2 * len(problem.xy) - unknowns, 1)) ** 0.5


def bundle_adjust(
    problem: BundleProblem, max_iterations: int = 25, tolerance: float = 1e-5, clear_cost: float = math.inf
) -> BundleResult:
    """Minimize the Huber cost of the reprojection errors plus the cost of the priors on the intrinsics.

    Args:
        problem: Observations and initial variables.
        max_iterations: Maximum number of accepted steps.
        tolerance: The iteration stops when a step reduces the cost by less than this fraction of the cost.
        clear_cost: The iteration stops when the final cost will clearly be larger than this value.

    Returns:
        The problem with adjusted variables, and its cost before and after.
    """
    config = replace(SOLVER, max_iterations=max_iterations, tolerance=tolerance, clear_cost=clear_cost)
    result = levenberg_marquardt(_BundleAdjustment(problem), problem, config)
    return BundleResult(result.state, problem.cost, result.state.cost, result.iterations)


@dataclass(frozen=True)
class _BundleAdjustment:
    """Adapter from bundle adjustment to the `Problem` interface of `levenberg_marquardt`."""

    initial: BundleProblem
    """The problem with its initial variables; the adjustment does not change its observations."""

    @cached_property
    def structure(self) -> SchurStructure:
        return SchurStructure(self.initial)

    def linearize(self, state: BundleProblem) -> NormalEquations:
        return NormalEquations(state, linearize(state), self.structure)

    def retract(self, state: BundleProblem, step: BundleStep) -> BundleProblem:
        return retract(state, *step)


@dataclass(frozen=True)
class Information:
    """Information matrix of all N poses and K cameras, in which the points are eliminated."""

    matrix: Tensor
    """Information matrix of the 6 variables of each pose and the 9 intrinsics of each camera, zero for
    intrinsics that no camera refines. (6 N + 9 K, 6 N + 9 K)."""
    free: Tensor
    """Whether each variable is refined. (6 N + 9 K,), bool."""

    @classmethod
    def of(cls, problem: BundleProblem) -> Information:
        """Compute the information matrix at the variables of a problem."""
        equations = NormalEquations(problem, linearize(problem), SchurStructure(problem))
        reduced, kept = equations.reduce(1e-9)[0], equations.indices
        free = torch.cat([problem.free_poses.repeat_interleave(6), problem.free_intrinsics.flatten()])
        matrix = reduced.new_zeros(len(free), len(free))
        matrix[kept[:, None], kept] = reduced
        return cls(matrix, free)


def intrinsics_covariance(problem: BundleProblem, information: Information | None = None) -> Tensor | None:
    """Compute the marginal covariance of the shared intrinsics, assuming that `problem.sigma` is correct.

    Args:
        problem: A problem after bundle adjustment.
        information: `Information.of(problem)`, if it is already known.

    Returns:
        Covariance matrix of the intrinsics, 9 per camera in the order of the K cameras; rows and columns of
        fixed intrinsics are zero. (9 K, 9 K). None if the normal equations are singular.
    """
    information = information or Information.of(problem)
    matrix, free = information.matrix, information.free
    # The undetermined scale of the scene makes the system singular; a tiny damping makes it solvable.
    matrix = matrix + torch.diag(1e-9 * matrix.diagonal().abs())
    factor, info = torch.linalg.cholesky_ex(matrix[free][:, free])
    if info != 0:
        return None
    intrinsics = problem.free_intrinsics.flatten()
    count = int(intrinsics.sum())
    covariance = torch.zeros(len(intrinsics), len(intrinsics), dtype=matrix.dtype, device=matrix.device)
    inverse = torch.cholesky_inverse(factor)
    covariance[intrinsics.outer(intrinsics)] = inverse[
        len(inverse) - count :, len(inverse) - count :
    ].flatten()
    return covariance


def sample_poses(
    problem: BundleProblem, noise: float, num_samples: int, information: Information | None = None
) -> Tensor | None:
    """Sample poses from their Gaussian distribution around the adjusted poses, at a fixed scale of the scene.

    Args:
        problem: A problem after bundle adjustment, with one fixed pose.
        noise: Ratio of the actual to the assumed standard deviation of the observations.
        num_samples: Number S of samples.
        information: `Information.of(problem)`, if it is already known.

    Returns:
        World-to-camera transforms. (S, N, 4, 4). None if the normal equations are singular.
    """
    information = information or Information.of(problem)
    free = information.free
    matrix = information.matrix[free][:, free]
    # Scaling the scene about the center of the fixed camera changes no residual.
    T = problem.T_camera_world
    center = invert(T[~problem.free_poses])[0, :3, 3]
    scaling = torch.zeros(len(free), dtype=T.dtype, device=T.device)
    scaling[: 6 * len(T)].view(-1, 6)[:, 3:] = transform(T, center.expand(len(T), 3))
    direction = torch.nn.functional.normalize(scaling[free], dim=0)
    matrix = matrix + matrix.diagonal().max() * torch.outer(direction, direction)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info != 0:
        return None
    generator = torch.Generator("cpu").manual_seed(0)  # the same samples on all devices
    normal = torch.randn(len(matrix), num_samples, generator=generator, dtype=T.dtype, device="cpu")
    steps = torch.zeros(num_samples, len(free), dtype=T.dtype, device=T.device)
    steps[:, free] = noise * torch.linalg.solve_triangular(factor.mT, normal.to(T.device), upper=True).T
    return move_poses(T.expand(num_samples, -1, -1, -1), steps[:, : 6 * len(T)].view(num_samples, -1, 6))
