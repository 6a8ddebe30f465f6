"""Test of whether the cameras moved while the rows of their images were read (rolling shutter).

A rolling shutter reads the image row by row. If the camera moves meanwhile, each row has a pose of its own:
the pose at the middle row plus a velocity times the row. To first order, the residual of an observation is

    r = t J v,

where t from -1/2 to 1/2 is the position of the row, J the derivative of the projection by the pose, and v the
motion during readout (Hedborg et al., "Rolling Shutter Bundle Adjustment", 2012). Bundle adjustment with one
pose per image leaves a part of this pattern in the residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class RollingShutter:
    """Fraction of the squared residuals that a motion during readout explains."""

    along_rows: float
    """Fraction explained if rows are read one after the other, 0 to 1, corrected for the number of variables
    that are fitted."""
    along_columns: float
    """The same fraction for columns. Other faults of the camera model, such as a wrong lens model, give
    similar fractions for rows and columns."""


def measure_rolling_shutter(state: SfmState, options: RollingShutterOptions, device: str) -> RollingShutter:
    """Fit the motion during the readout of each image to the residuals.

    Args:
        state: The refined state; not changed.
        options: Number of observations.
        device: PyTorch device for the computation.

    Returns:
        The explained fractions; zeros if there are too few observations.
    """
    rows = sample_observations(state, options.max_num_observations)
    fixed = BundleAdjustmentOptions(refine_focal_length=False, max_iterations=0, device=device)
    result = state.snapshot().bundle_adjust(fixed, rows)
    if result is None:
        return RollingShutter(0.0, 0.0)
    problem = result.problem
    at = linearize(problem)
    weight = huber_weight(at.residuals.norm(dim=1), problem.huber).sqrt()[:, None]
    residuals, by_pose = (weight * at.residuals).cpu().numpy(), (weight[..., None] * at.by_pose).cpu().numpy()
    image_ids = problem.image_ids.cpu().numpy()
    used = np.flatnonzero(state.inlier & state.has_point[state.track_ids] & state.registered[state.image_ids])
    used = used[rows[used]]
    to_sensor = np.swapaxes(state.upright_from_sensor[state.image_ids[used]], 1, 2)
    position = (
        rotate(to_sensor, state.xy[used]) / (2 * state.half_size[state.image_ids[used]].max(1))[:, None]
    )
    by_columns, by_rows = (
        _explained_fraction(position[:, axis], by_pose, residuals, image_ids) for axis in (0, 1)
    )
    return RollingShutter(by_rows, by_columns)


def _explained_fraction(position: Array, by_pose: Array, residuals: Array, image_ids: Indices) -> float:
    """Compute the fraction of the squared residuals that a motion along one image axis explains.

    Args:
        position: Position of each observation along the axis; zero in the middle of the image. (O,).
        by_pose: Derivatives of the residuals by the pose. (O, 2, 6).
        residuals: Residuals. (O, 2).
        image_ids: Index of the image of each observation. (O,).

    Returns:
        Fraction, minus the fraction that would be explained by chance; at least zero.
    """
    num_images = int(image_ids.max()) + 1
    jacobian = position[:, None, None] * by_pose
    matrix = np.zeros((num_images, NUM_POSE_VARIABLES, NUM_POSE_VARIABLES))
    gradient = np.zeros((num_images, NUM_POSE_VARIABLES))
    np.add.at(matrix, image_ids, np.einsum("oki,okj->oij", jacobian, jacobian))
    np.add.at(gradient, image_ids, np.einsum("oki,ok->oi", jacobian, residuals))
    matrix += 1e-9 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(NUM_POSE_VARIABLES) + 1e-12
    explained = float((gradient * np.linalg.solve(matrix, gradient[..., None])[..., 0]).sum())
    total, num_variables = float((residuals**2).sum()), NUM_POSE_VARIABLES * num_images
    return max(0.0, explained / total - num_variables / residuals.size)
