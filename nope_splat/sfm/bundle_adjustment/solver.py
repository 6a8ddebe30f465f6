"""Bundle adjustment: Levenberg-Marquardt over poses, points and shared intrinsics.

The method follows Triggs et al., "Bundle Adjustment: A Modern Synthesis" (2000). The normal equations are
reweighted in each iteration for robustness. The Schur complement eliminates the points, which leaves a dense
system of the poses and the shared intrinsics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
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


def bundle_adjust(problem: BundleProblem, max_iterations: int = 25, tolerance: float = 1e-5) -> BundleResult:
    """Minimize the Huber cost of the reprojection errors plus the cost of the priors on the intrinsics.

    Args:
        problem: Observations and initial variables.
        max_iterations: Maximum number of accepted steps.
        tolerance: The iteration stops when a step reduces the cost by less than this fraction of the cost.

    Returns:
        The problem with adjusted variables, and its cost before and after.
    """
    config = replace(SOLVER, max_iterations=max_iterations, tolerance=tolerance)
    result = levenberg_marquardt(_BundleAdjustment(SchurStructure(problem)), problem, config)
    return BundleResult(result.state, problem.cost, result.state.cost, result.iterations)


@dataclass(frozen=True)
class _BundleAdjustment:
    """Adapter from bundle adjustment to the `Problem` interface of `levenberg_marquardt`."""

    structure: SchurStructure

    def linearize(self, state: BundleProblem) -> NormalEquations:
        return NormalEquations(state, linearize(state), self.structure)

    def retract(self, state: BundleProblem, step: BundleStep) -> BundleProblem:
        return retract(state, *step)


def intrinsics_covariance(problem: BundleProblem) -> Tensor | None:
    """Compute the marginal covariance of the shared intrinsics, assuming that `problem.sigma` is correct.

    Args:
        problem: A problem after bundle adjustment.

    Returns:
        Covariance matrix of the intrinsics, 5 per camera in the order of the K cameras; rows and columns of
        fixed intrinsics are zero. (5 K, 5 K). None if the normal equations are singular.
    """
    matrix, _, _ = NormalEquations(problem, linearize(problem), SchurStructure(problem)).reduce(1e-9)
    # The undetermined scale of the scene makes the system singular; a tiny damping makes it solvable.
    matrix = matrix + torch.diag(1e-9 * matrix.diagonal().abs())
    intrinsics = problem.free_intrinsics.flatten()
    free = torch.cat([problem.free_poses.repeat_interleave(6), intrinsics])
    factor, info = torch.linalg.cholesky_ex(matrix[free][:, free])
    if info != 0:
        return None
    count = int(intrinsics.sum())
    covariance = torch.zeros(len(intrinsics), len(intrinsics), dtype=matrix.dtype, device=matrix.device)
    inverse = torch.cholesky_inverse(factor)
    covariance[intrinsics.outer(intrinsics)] = inverse[
        len(inverse) - count :, len(inverse) - count :
    ].flatten()
    return covariance
