"""Direction in which photos without EXIF orientation were rotated upright, found from their observations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nope_splat.geometry.rigid import transform
from nope_splat.io.cameras.orientation import UPRIGHT_FROM_STORED
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.pose_estimation import estimate_absolute_pose
from nope_splat.sfm.registration.resection import RESECTION_OPTIONS
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices

QUARTER_TURNS: Array = np.array([UPRIGHT_FROM_STORED[6], UPRIGHT_FROM_STORED[8]], np.float64)
"""Rotations by 90 degrees, clockwise and counterclockwise. (2, 2, 2)."""


def find_quarter_turns(state: SfmState, adjustment: BundleAdjustmentOptions) -> None:
    """Determine for photos rotated in an unknown direction whether it was clockwise or counterclockwise.

    The principal point of a camera rotates with the photo. It is found from the other photos, and the pose of
    the rotated photo is estimated with both positions of its principal point. The position with the lower
    reprojection error is that of the right direction.

    Args:
        state: State with poses and points; only `upright_from_sensor` is changed.
        adjustment: Options of bundle adjustment.
    """
    unknown = state.registered & ~state.upright_from_sensor.any(axis=(1, 2))
    if not unknown.any():
        return
    trial, turns = state.snapshot(), state.upright_from_sensor.copy()
    in_others = state.inlier & ~unknown[state.image_ids]
    in_others &= (np.bincount(state.track_ids[in_others], minlength=len(state.points)) >= 2)[state.track_ids]
    trial.bundle_adjust(replace(adjustment, refine_principal_point=True), in_others)
    in_others_too = np.isin(state.track_ids, state.track_ids[in_others]) & state.inlier
    for image_id in np.flatnonzero(unknown).tolist():
        rows = np.flatnonzero(in_others_too & (state.image_ids == image_id))
        errors = [_resection_error(trial, image_id, rows, turn) for turn in QUARTER_TURNS]
        if np.isfinite(errors).all():
            turns[image_id] = QUARTER_TURNS[int(np.argmin(errors))]
    state.upright_from_sensor = turns


def _resection_error(state: SfmState, image_id: int, rows: Indices, turn: Array) -> float:
    """Estimate the pose of a photo that was rotated by `turn`, and return its root-mean-square error.

    Errors are in pixels at keypoint detection resolution, limited to the inlier threshold of resection. The
    result is infinite if there is no pose. `rows` are the observations to use.
    """
    state.upright_from_sensor = state.upright_from_sensor.copy()
    state.upright_from_sensor[image_id] = turn
    points, max_error = state.points[state.track_ids[rows]], RESECTION_OPTIONS.abs_pose_max_error
    if len(rows) < RESECTION_OPTIONS.abs_pose_min_num_inliers:
        return np.inf
    pose = estimate_absolute_pose(state.xy[rows], points, state.camera_of(image_id), RESECTION_OPTIONS)
    if not pose.success:
        return np.inf
    errors = state.projection_errors(transform(pose.T, points), rows)
    return float(np.sqrt(np.mean(np.minimum(errors, max_error) ** 2)))
