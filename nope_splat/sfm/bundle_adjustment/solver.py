"""Bundle adjustment: Levenberg-Marquardt over poses, points and shared intrinsics.

The method is that of Triggs et al., "Bundle Adjustment: A Modern Synthesis" (2000): iteratively reweighted
normal equations, from which the Schur complement eliminates the points. A dense system of the poses and
the shared intrinsics remains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, BundleStep, linearize, retract
from nope_splat.sfm.bundle_adjustment.schur import NormalEquations, SchurStructure

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-4, increase=6.0, decrease=5.0)
"""Damping of bundle adjustment; the callers limit the number of steps."""


@dataclass(frozen=True)
class BundleResult:
    """Outcome of a bundle adjustment."""

    problem: BundleProblem
    """The problem with adjusted variables."""
    initial_cost: float
    """Robust cost before the adjustment; residuals are in standard deviations."""
    cost: float
    """Robust cost after the adjustment; residuals are in standard deviations."""
    iterations: int
    """Number of accepted steps."""

    @property
    def noise(self) -> float:
        """Standard deviation of the residuals, corrected for degrees of freedom, relative to `sigma`."""
        problem = self.problem
        unknowns = (
            6 * len(problem.T_camera_world) + 3 * len(problem.points) + int(problem.free_intrinsics.sum())
        )
        return (self.cost / max(2 * len(problem.xy) - unknowns, 1)) ** 0.5


def bundle_adjust(problem: BundleProblem, max_iterations: int = 25, tolerance: float = 1e-5) -> BundleResult:
    """Minimize the Huber cost of the reprojection errors plus the prior on the intrinsics.

    Args:
        problem: Observations and initial variables.
        max_iterations: Maximum number of accepted steps.
        tolerance: Relative decrease of the cost in one step below which to stop.

    Returns:
        The adjusted problem and its cost.
    """
    config = replace(SOLVER, max_iterations=max_iterations, tolerance=tolerance)
    result = levenberg_marquardt(_BundleAdjustment(SchurStructure(problem)), problem, config)
    return BundleResult(result.state, problem.cost, result.state.cost, result.iterations)


@dataclass(frozen=True)
class _BundleAdjustment:
    """Bundle adjustment as a problem of `levenberg_marquardt`."""

    structure: SchurStructure

    def linearize(self, state: BundleProblem) -> NormalEquations:
        return NormalEquations(state, linearize(state), self.structure)

    def retract(self, state: BundleProblem, step: BundleStep) -> BundleProblem:
        return retract(state, *step)


def intrinsics_covariance(problem: BundleProblem) -> Tensor | None:
    """Compute the marginal covariance of the shared intrinsics, assuming that `sigma` is correct.

    Args:
        problem: An adjusted problem.

    Returns:
        Covariance of the free intrinsics, including the prior, and zero for fixed ones; None if the system
        is singular. (5 K, 5 K).
    """
    matrix, _, _ = NormalEquations(problem, linearize(problem), SchurStructure(problem)).reduce(1e-9)
    # The free overall scale makes the system singular; a tiny damping fixes it without affecting the rest.
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
