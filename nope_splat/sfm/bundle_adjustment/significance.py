"""Test whether intrinsics that bundle adjustment kept fixed differ significantly from their values."""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.stats import chi2
from torch import Tensor

from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, linearize
from nope_splat.sfm.bundle_adjustment.schur import NormalEquations, SchurStructure


def score_probabilities(problem: BundleProblem, noise: float, tested: Tensor) -> Tensor:
    """Compute, for each camera, the probability that fixed intrinsics deviate as much by chance.

    Rao's score test needs no bundle adjustment with the tested intrinsics: one Gauss-Newton step d of all
    variables, with covariance C, from the optimum without them. The statistic d_t^T C_tt^-1 d_t of the n
    tested intrinsics t of a camera has a chi-squared distribution with n degrees of freedom if their values
    are correct.

    Args:
        problem: A problem after bundle adjustment, in which the tested intrinsics are fixed.
        noise: Ratio of the actual to the assumed standard deviation of the observations.
        tested: Whether each intrinsic parameter of each camera is tested. (K, 9), bool.

    Returns:
        Probability of each camera; one for cameras without tested intrinsics, or if the normal equations are
        singular. (K,).
    """
    probabilities = torch.ones(len(tested), dtype=torch.float64, device="cpu")
    # The priors would pull the tested intrinsics to their means.
    problem = replace(
        problem,
        free_intrinsics=problem.free_intrinsics | tested,
        prior_sigma=torch.where(tested, 1e3 * problem.prior_sigma, problem.prior_sigma),
    )
    equations = NormalEquations(problem, linearize(problem), SchurStructure(problem))
    matrix, gradient, _ = equations.reduce(1e-9)
    free_intrinsics = problem.free_intrinsics[:, problem.columns]
    free = torch.cat([problem.free_poses.repeat_interleave(6), free_intrinsics.flatten()])
    matrix = matrix + torch.diag(1e-9 * matrix.diagonal().abs())
    factor, info = torch.linalg.cholesky_ex(matrix[free][:, free])
    if info != 0:
        return probabilities
    covariance = torch.cholesky_inverse(factor)
    step = -covariance @ gradient[free]
    position = torch.full((len(free),), -1, device=free.device)
    position[free] = torch.arange(int(free.sum()), device=free.device)
    of_camera = position[6 * len(problem.T_camera_world) :].view_as(free_intrinsics)
    for camera, rows in enumerate(of_camera):
        rows = rows[tested[camera, problem.columns]]
        if len(rows):
            information = torch.linalg.inv(covariance[rows[:, None], rows])
            statistic = float(step[rows] @ information @ step[rows]) / noise**2
            probabilities[camera] = float(chi2.sf(statistic, len(rows)))
    return probabilities
