"""Bundle adjustment: Levenberg-Marquardt over poses, points and shared intrinsics, points eliminated.

The method is Triggs et al., "Bundle Adjustment: A Modern Synthesis" (2000): robust reweighted normal
equations, whose block-diagonal point part is eliminated by the Schur complement, so that only the cameras
and the shared intrinsics remain in a dense system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, BundleStep, linearize, retract
from nope_splat.sfm.bundle_adjustment.schur import NormalEquations, SchurStructure

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-4, increase=6.0, decrease=5.0)
"""Damping of bundle adjustment; how many steps it takes depends on the stage of the reconstruction."""


@dataclass(frozen=True)
class BundleResult:
    """Outcome of a bundle adjustment."""

    problem: BundleProblem
    """The problem with its variables adjusted."""
    initial_cost: float
    """Robust cost at the start, in variances."""
    cost: float
    """Robust cost at the end, in variances."""
    iterations: int
    """Accepted steps."""

    @property
    def noise(self) -> float:
        """Standard deviation of the residuals as a multiple of the assumed one, by degrees of freedom."""
        problem = self.problem
        unknowns = (
            6 * len(problem.T_camera_world) + 3 * len(problem.points) + int(problem.free_intrinsics.sum())
        )
        return (self.cost / max(2 * len(problem.xy) - unknowns, 1)) ** 0.5


def adjust(problem: BundleProblem, max_iterations: int = 25, tolerance: float = 1e-5) -> BundleResult:
    """Minimize the Huber cost of the reprojection errors plus the prior on the intrinsics.

    Args:
        problem: Start.
        max_iterations: Largest number of accepted steps.
        tolerance: Stop when a step lowers the cost by less than this share.

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
    """Covariance of the shared intrinsics with everything else free, for residuals of the assumed size.

    Args:
        problem: An adjusted problem.

    Returns:
        Covariance of the intrinsics that are free, the prior included, zero for others; None where the
        system is singular. (5 K, 5 K).
    """
    matrix, _, _ = NormalEquations(problem, linearize(problem), SchurStructure(problem)).reduce(1e-9)
    # A free overall scale leaves the cameras singular; a tiny damping removes it without touching the rest.
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
