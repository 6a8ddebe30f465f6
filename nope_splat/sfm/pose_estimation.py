"""Robust estimation of absolute and relative poses from correspondences, with poselib.

All calls of poselib's absolute and relative pose estimators go through this module. Options are named as in
COLMAP.
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
    """Options of absolute pose estimation (PnP); errors are in pixels of the given image coordinates."""

    abs_pose_max_error: float
    """Maximum reprojection error of an inlier, in pixels."""
    abs_pose_min_num_inliers: int
    """Minimum number of inliers for a pose to be accepted."""
    abs_pose_min_inlier_ratio: float = 0.0
    """Minimum fraction of inliers among the points for a pose to be accepted."""
    loss_scale: float = 1.0
    """Width of the Cauchy loss in the refinement of the pose, in pixels."""
    min_num_trials: int = 100
    """Minimum number of RANSAC iterations."""
    max_num_trials: int = 10_000
    """Maximum number of RANSAC iterations."""
    random_seed: int = 0
    """Random seed of RANSAC."""
    max_num_refinements: int = 0
    """Maximum number of steps that refine the pose on its inliers after RANSAC; 0 for no such refinement."""


@dataclass(frozen=True)
class RelativePoseOptions:
    """Options of relative pose estimation; errors are in pixels of the given image coordinates."""

    max_epipolar_error: float
    """Maximum epipolar error of an inlier, in pixels."""
    loss_scale: float = 1.0
    """Width of the Cauchy loss in the refinement of the pose, in pixels."""
    min_num_trials: int = 100
    """Minimum number of RANSAC iterations."""
    max_num_trials: int = 5_000
    """Maximum number of RANSAC iterations."""
    random_seed: int = 0
    """Random seed of RANSAC."""


@dataclass(frozen=True)
class EstimatedPose:
    """Absolute or relative pose with its inliers."""

    T: Array
    """World-to-camera transform for an absolute pose, or transform from the first to the second camera for a
    relative pose (OpenCV axes). (4, 4)."""
    inliers: Mask
    """Whether each correspondence agrees with the pose. (n,)."""
    success: bool
    """Whether the pose has enough inliers."""


PoselibCamera = dict[str, Any]
"""Camera intrinsics in poselib's format, a dictionary."""


def poselib_camera(
    focal: float,
    principal_point: Sequence[float] | Array = (0.0, 0.0),
    radial: Sequence[float] | Array | None = None,
) -> PoselibCamera:
    """Convert camera intrinsics to poselib's format.

    Args:
        focal: Focal length in pixels.
        principal_point: Principal point in the same image coordinates as the correspondences. (2,).
        radial: Radial distortion k1 and k2; None for no distortion. (2,).

    Returns:
        The intrinsics, with image size zero because no estimator uses the size.
    """
    model, terms = ("SIMPLE_PINHOLE", ()) if radial is None else ("RADIAL", radial)
    return {"model": model, "width": 0, "height": 0, "params": [focal, *principal_point, *terms]}


def estimate_absolute_pose(
    xy: Array, points: Array, camera: PoselibCamera, options: AbsolutePoseOptions
) -> EstimatedPose:
    """Estimate the pose of an image from known 3D points by RANSAC with local optimization.

    Args:
        xy: Observed image coordinates of the points, in pixels. (n, 2), with at least one row.
        points: World coordinates of the points. (n, 3).
        camera: Intrinsics, from `poselib_camera`.
        options: Inlier thresholds, and number of iterations.

    Returns:
        The world-to-camera transform with its inliers; `success` is False if there are too few inliers.
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
    """Estimate the relative pose of a pair by the five-point algorithm in RANSAC with local optimization.

    Args:
        xy_first: Image coordinates of the matches in the first image, in pixels. (n, 2).
        xy_second: Image coordinates of the matches in the second image, in pixels. (n, 2).
        camera_first: Intrinsics of the first image, from `poselib_camera`.
        camera_second: Intrinsics of the second image, from `poselib_camera`.
        options: Inlier threshold, and number of iterations.

    Returns:
        The transform from the first to the second camera, with a translation of length one, and its inliers;
        `success` is False if there are no inliers.
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
    """Convert options to a dictionary of poselib's RANSAC options.

    Args:
        options: Numbers of iterations and random seed.
        **error: Inlier threshold in pixels, as one keyword argument with poselib's name of this option:
            `max_reproj_error` or `max_epipolar_error`.
    """
    return error | {
        "max_iterations": options.max_num_trials,
        "min_iterations": options.min_num_trials,
        "seed": options.random_seed,
    }


def _loss(options: AbsolutePoseOptions | RelativePoseOptions) -> dict[str, Any]:
    """Convert options to a dictionary of poselib's options for the refinement of the pose."""
    return {"loss_type": "CAUCHY", "loss_scale": options.loss_scale}
