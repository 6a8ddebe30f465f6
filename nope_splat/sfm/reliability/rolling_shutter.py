"""Test of whether the cameras moved while the rows of their images were read (rolling shutter).

A rolling shutter reads the image row by row. If the camera moves meanwhile, each row has a pose of its own:
the pose at the middle row plus a velocity times the row. To first order, the residual of an observation is

    r = t J v,

where t from -1/2 to 1/2 is the position of the row, J the derivative of the projection by the pose, and v the
motion during readout (Hedborg et al., "Rolling Shutter Bundle Adjustment", 2012). Bundle adjustment with one
pose per image leaves a part of this pattern in the residuals. A wrong lens model leaves patterns, too, but
the same in all images; these are removed first.
"""

from __future__ import annotations

import numpy as np

from nope_splat.geometry.rigid import rotate
from nope_splat.geometry.robust import huber_weight
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.problem import linearize
from nope_splat.sfm.reliability.focal_profile import sample_observations
from nope_splat.sfm.reliability.options import RollingShutterOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices

NUM_POSE_VARIABLES = 6
"""Number of variables of the motion during the readout of an image."""


POLYNOMIAL_DEGREE = 4
"""Degree of the polynomial in the pixel coordinates that describes patterns common to all images."""


def measure_rolling_shutter(state: SfmState, options: RollingShutterOptions, device: str) -> float:
    """Fit the motion during the readout of each image to the residuals.

    Args:
        state: The refined state; not changed.
        options: Number of observations.
        device: PyTorch device for the computation.

    Returns:
        Fraction of the squared residuals that the motions explain, minus the fraction that they would explain
        by chance, 0 to 1; zero if there are too few observations.
    """
    rows = sample_observations(state, options.max_num_observations)
    fixed = BundleAdjustmentOptions(refine_focal_length=False, max_iterations=0, device=device)
    result = state.snapshot().bundle_adjust(fixed, rows)
    if result is None:
        return 0.0
    problem = result.problem
    at = linearize(problem)
    weight = huber_weight(at.residuals.norm(dim=1), problem.huber).sqrt()[:, None].cpu().numpy()
    residuals, by_pose = at.residuals.cpu().numpy(), at.by_pose.cpu().numpy()
    image_ids, turns = problem.image_ids.cpu().numpy(), problem.upright_from_sensor[problem.image_ids]
    to_sensor = turns.mT.cpu().numpy()
    xy = rotate(to_sensor, problem.xy.cpu().numpy()) / np.abs(state.half_size).max()
    common = _common_pattern(xy, rotate(to_sensor, weight * residuals), weight)
    residuals = weight * (residuals - rotate(np.swapaxes(to_sensor, 1, 2), common))
    jacobian = (weight * xy[:, 1:] / 2)[..., None] * by_pose
    return _explained_fraction(jacobian, residuals, image_ids)


def _common_pattern(xy: Array, residuals: Array, weight: Array) -> Array:
    """Fit a polynomial in the pixel coordinates to the residuals of all images.

    Args:
        xy: Coordinates of the observations in the pixels of the sensor, from -1 to 1. (O, 2).
        residuals: Weighted residuals, along the axes of the sensor. (O, 2).
        weight: Weight of each observation. (O, 1).

    Returns:
        Residuals without weights that the polynomial explains. (O, 2).
    """
    powers = [(i, j) for i in range(POLYNOMIAL_DEGREE + 1) for j in range(POLYNOMIAL_DEGREE + 1 - i)]
    basis = np.stack([xy[:, 0] ** i * xy[:, 1] ** j for i, j in powers], axis=1)
    return basis @ np.linalg.lstsq(weight * basis, residuals, rcond=None)[0]


def _explained_fraction(jacobian: Array, residuals: Array, image_ids: Indices) -> float:
    """Compute the fraction of the squared residuals that one motion per image explains.

    Args:
        jacobian: Derivatives of the residuals by the motion of the image. (O, 2, 6).
        residuals: Residuals. (O, 2).
        image_ids: Index of the image of each observation. (O,).

    Returns:
        Fraction, minus the fraction that would be explained by chance; at least zero.
    """
    num_images = int(image_ids.max()) + 1
    matrix = np.zeros((num_images, NUM_POSE_VARIABLES, NUM_POSE_VARIABLES))
    gradient = np.zeros((num_images, NUM_POSE_VARIABLES))
    np.add.at(matrix, image_ids, np.einsum("oki,okj->oij", jacobian, jacobian))
    np.add.at(gradient, image_ids, np.einsum("oki,ok->oi", jacobian, residuals))
    trace = np.trace(matrix, axis1=1, axis2=2)[:, None, None]
    matrix += (1e-9 * trace + 1e-12) * np.eye(NUM_POSE_VARIABLES)
    explained = float((gradient * np.linalg.solve(matrix, gradient[..., None])[..., 0]).sum())
    total, num_variables = float((residuals**2).sum()), NUM_POSE_VARIABLES * num_images
    return max(0.0, explained / total - num_variables / residuals.size)
