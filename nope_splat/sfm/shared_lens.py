"""Cameras that share a lens, found by a statistical test of their intrinsics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.stats import chi2

from nope_splat.sfm.bundle_adjustment.lens_coupling import lens_jacobian, lens_parameters
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.solver import intrinsics_covariance
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices


def find_shared_lenses(
    state: SfmState, adjustment: BundleAdjustmentOptions, min_probability: float
) -> Indices:
    """Find cameras that differ only by a digital zoom.

    Two cameras share a lens if the images have the same size, and if the difference of their lens parameters
    (see `lens_coupling`) is within its uncertainty. The test is a Wald test: with the difference d of the n
    free parameters and its covariance C, d^T C^-1 d has a chi-squared distribution with n degrees of freedom.

    Args:
        state: Refined state; not changed.
        adjustment: Options of the last bundle adjustment; the principal point and distortion of a camera are
            compared if they were refined for both.
        min_probability: Minimum probability of a difference at least as large as the observed one.

    Returns:
        For each camera, the index of the first camera with the same lens. (K,).
    """
    num_cameras = len(state.focal)
    lens_ids = np.arange(num_cameras)
    if num_cameras == 1:
        return lens_ids
    result = state.snapshot().bundle_adjust(replace(adjustment, max_iterations=0))
    covariance = None if result is None else intrinsics_covariance(result.problem)
    if result is None or covariance is None:
        return lens_ids
    intrinsics, jacobian = result.problem.intrinsics, lens_jacobian(result.problem.intrinsics)
    joint = torch.block_diag(*jacobian)
    parameters = lens_parameters(intrinsics).cpu().numpy()
    covariance = (result.noise**2 * joint @ covariance @ joint.T).cpu().numpy()
    free = result.problem.free_intrinsics[:, 1:].cpu().numpy()
    sizes = state.longer_sides
    for camera in range(1, num_cameras):
        for other in np.unique(lens_ids[:camera]).tolist():
            compared = np.flatnonzero(free[camera])
            is_alike = sizes[camera] == sizes[other] and state.is_fisheye[camera] == state.is_fisheye[other]
            if is_alike and len(compared) >= 4 and np.array_equal(free[camera], free[other]):
                difference = (parameters[camera] - parameters[other])[compared]
                rows = [8 * number + compared for number in (other, camera)]
                if _probability(difference, covariance, *rows) > min_probability:
                    lens_ids[camera] = other
                    break
    return lens_ids


def _probability(difference: Array, covariance: Array, first: Indices, second: Indices) -> float:
    """Compute the probability that the parameters of two cameras differ at least as much by chance.

    Args:
        difference: Difference of the n compared parameters. (n,).
        covariance: Covariance of the parameters of all cameras. (8 K, 8 K).
        first: Rows of the compared parameters of one camera in `covariance`. (n,).
        second: Rows of the compared parameters of the other camera. (n,).
    """
    mixed = covariance[np.ix_(first, second)]
    of_difference = covariance[np.ix_(first, first)] + covariance[np.ix_(second, second)] - mixed - mixed.T
    return float(chi2.sf(difference @ np.linalg.solve(of_difference, difference), len(difference)))
