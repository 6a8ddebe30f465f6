"""Robust estimation of absolute and relative poses from correspondences, by poselib.

Only this module calls poselib's pose estimators and converts cameras to its format. Options have COLMAP's
names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import poselib

from nope_splat.geometry.rigid import rigid
from nope_splat.utils.typing import Array, Mask


@dataclass(frozen=True)
class AbsolutePoseOptions:
    """Options of absolute pose estimation (PnP); pixels are the units of the image coordinates."""

    abs_pose_max_error: float
    """Maximum reprojection error of an inlier, pixels."""
    abs_pose_min_num_inliers: int
    """Minimum number of inliers of a pose."""
    abs_pose_min_inlier_ratio: float = 0.0
    """Minimum share of the points that are inliers of a pose."""
    loss_scale: float = 1.0
    """Width of the Cauchy loss with which a pose is refined, pixels."""
    min_num_trials: int = 100
    """Minimum number of RANSAC iterations."""
    max_num_trials: int = 10_000
    """Maximum number of RANSAC iterations."""
    random_seed: int = 0
    """Seed of RANSAC."""
    max_num_refinements: int = 0
    """Maximum number of refinement steps on the inliers after RANSAC."""


@dataclass(frozen=True)
class RelativePoseOptions:
    """Options of relative pose estimation; pixels are the units of the image coordinates."""

    max_epipolar_error: float
    """Maximum epipolar error of an inlier, pixels."""
    loss_scale: float = 1.0
    """Width of the Cauchy loss with which a pose is refined, pixels."""
    min_num_trials: int = 100
    """Minimum number of RANSAC iterations."""
    max_num_trials: int = 5_000
    """Maximum number of RANSAC iterations."""
    random_seed: int = 0
    """Seed of RANSAC."""


@dataclass(frozen=True)
class EstimatedPose:
    """Estimated pose with its inliers."""

    T: Array
    """World-to-camera transform, or transform from the first to the second camera, OpenCV axes. (4, 4)."""
    inliers: Mask
    """Correspondences that agree with the pose. (n,)."""
    success: bool
    """Whether there are as many inliers as the options require."""


PoselibCamera = dict[str, Any]
"""Camera in poselib's format."""


def poselib_camera(
    focal: float,
    principal_point: Sequence[float] | Array = (0.0, 0.0),
    radial: Sequence[float] | Array | None = None,
) -> PoselibCamera:
    """Convert a camera to poselib's format.

    Args:
        focal: Focal length in pixels.
        principal_point: Principal point in the same image coordinates as the correspondences. (2,).
        radial: Radial distortion k1 and k2, if any. (2,).

    Returns:
        The camera. Its size is zero, since no estimator needs it.
    """
    model, terms = ("SIMPLE_PINHOLE", ()) if radial is None else ("RADIAL", radial)
    return {"model": model, "width": 0, "height": 0, "params": [focal, *principal_point, *terms]}


def estimate_absolute_pose(
    xy: Array, points: Array, camera: PoselibCamera, options: AbsolutePoseOptions
) -> EstimatedPose:
    """Estimate a pose from points by RANSAC with local optimization.

    Args:
        xy: Observed image coordinates of the points, pixels. (n, 2), with at least one row.
        points: World coordinates. (n, 3).
        camera: From `poselib_camera`.
        options: Thresholds.

    Returns:
        The world-to-camera transform.
    """
    pose, info = poselib.estimate_absolute_pose(
        xy, points, camera, _ransac(options, max_reproj_error=options.abs_pose_max_error), _loss(options)
    )
    inliers = np.array(info["inliers"], bool)
    has_enough = inliers.sum() >= options.abs_pose_min_num_inliers
    success = bool(has_enough and inliers.mean() >= options.abs_pose_min_inlier_ratio)
    if success and options.max_num_refinements:
        steps = {"max_iterations": options.max_num_refinements}
        pose, _ = poselib.refine_absolute_pose(
            xy[inliers], points[inliers], pose, camera, _loss(options) | steps
        )
    return EstimatedPose(rigid(pose.R, pose.t), inliers, success)


def estimate_relative_pose(
    xy_first: Array,
    xy_second: Array,
    camera_first: PoselibCamera,
    camera_second: PoselibCamera,
    options: RelativePoseOptions,
) -> EstimatedPose:
    """Estimate the relative pose of a pair by the five-point method in RANSAC with local optimization.

    Args:
        xy_first: Matched image coordinates in the first image, pixels. (n, 2).
        xy_second: Matched image coordinates in the second image, pixels. (n, 2).
        camera_first: First camera, from `poselib_camera`.
        camera_second: Second camera, from `poselib_camera`.
        options: Thresholds.

    Returns:
        The transform from the first to the second camera, with a translation of length one.
    """
    pose, info = poselib.estimate_relative_pose(
        xy_first,
        xy_second,
        camera_first,
        camera_second,
        _ransac(options, max_epipolar_error=options.max_epipolar_error),
        _loss(options),
    )
    inliers = np.array(info["inliers"], bool)
    return EstimatedPose(rigid(pose.R, pose.t), inliers, bool(inliers.any()))


def _ransac(options: AbsolutePoseOptions | RelativePoseOptions, **error: float) -> dict[str, Any]:
    """Convert options to those of poselib's RANSAC."""
    return error | {
        "max_iterations": options.max_num_trials,
        "min_iterations": options.min_num_trials,
        "seed": options.random_seed,
    }


def _loss(options: AbsolutePoseOptions | RelativePoseOptions) -> dict[str, Any]:
    """Convert options to those of poselib's refinement."""
    return {"loss_type": "CAUCHY", "loss_scale": options.loss_scale}
