"""Robust estimation of absolute and relative poses from correspondences.

Perspective cameras use poselib's estimators, and fisheye cameras those of `ray_poses`. Options are named as
in COLMAP.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import poselib

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import rigid
from nope_splat.sfm.pose_options import AbsolutePoseOptions, EstimatedPose, RelativePoseOptions
from nope_splat.sfm.ray_poses import absolute_pose_from_rays, relative_pose_from_rays
from nope_splat.utils.typing import Array, Mask

PoselibCamera = dict[str, Any]
"""Camera intrinsics in poselib's format, a dictionary."""


def poselib_camera(camera: Camera) -> PoselibCamera:
    """Convert intrinsics of a perspective camera to poselib's format.

    Args:
        camera: Intrinsics; image coordinates are relative to the image center.

    Returns:
        The intrinsics, with image size zero because no estimator uses the size.
    """
    k1, k2, _, _, p1, p2 = camera.distortion
    model, params = "OPENCV", [camera.focal, camera.focal, *camera.offset, k1, k2, p1, p2]
    if camera.is_pinhole:
        model, params = "SIMPLE_PINHOLE", [camera.focal, *camera.offset]
    elif not (p1 or p2):
        model, params = "RADIAL", [camera.focal, *camera.offset, k1, k2]
    return {"model": model, "width": 0, "height": 0, "params": params}


def estimate_absolute_pose(
    xy: Array, points: Array, camera: Camera, options: AbsolutePoseOptions
) -> EstimatedPose:
    """Estimate the pose of an image from known 3D points by RANSAC with local optimization.

    Args:
        xy: Observed image coordinates of the points relative to the image center, in pixels. (n, 2), with at
            least one row.
        points: World coordinates of the points. (n, 3).
        camera: Intrinsics of the image.
        options: Inlier thresholds, and number of iterations.

    Returns:
        The world-to-camera transform with its inliers; `success` is False if there are too few inliers.
    """
    if camera.is_fisheye:
        rays = camera.unproject(xy, np.zeros(2, np.int64))
        T, inliers = absolute_pose_from_rays(rays, points, camera.focal, options)
        return EstimatedPose(T, inliers, _is_success(inliers, options))
    model = poselib_camera(camera)
    pose, info = poselib.estimate_absolute_pose(
        xy, points, model, _ransac(options, max_reproj_error=options.abs_pose_max_error), _loss(options)
    )
    inliers = np.array(info["inliers"], bool)
    success = _is_success(inliers, options)
    if success and options.max_num_refinements:
        steps = {"max_iterations": options.max_num_refinements}
        pose, _ = poselib.refine_absolute_pose(
            xy[inliers], points[inliers], pose, model, _loss(options) | steps
        )
    return EstimatedPose(rigid(pose.R, pose.t), inliers, success)


def estimate_relative_pose(
    xy_first: Array,
    xy_second: Array,
    camera_first: Camera,
    camera_second: Camera,
    options: RelativePoseOptions,
) -> EstimatedPose:
    """Estimate the relative pose of a pair by the five-point algorithm in RANSAC with local optimization.

    Args:
        xy_first: Image coordinates of the matches in the first image, relative to the image center, in
            pixels. (n, 2).
        xy_second: Image coordinates of the matches in the second image, as `xy_first`. (n, 2).
        camera_first: Intrinsics of the first image.
        camera_second: Intrinsics of the second image.
        options: Inlier threshold, and number of iterations.

    Returns:
        The transform from the first to the second camera, with a translation of length one, and its inliers;
        `success` is False if there are no inliers.
    """
    if camera_first.is_fisheye or camera_second.is_fisheye:
        center, focals = np.zeros(2, np.int64), (camera_first.focal, camera_second.focal)
        rays_first = camera_first.unproject(xy_first, center)
        rays_second = camera_second.unproject(xy_second, center)
        T, inliers = relative_pose_from_rays(rays_first, rays_second, focals, options)
        return EstimatedPose(T, inliers, bool(inliers.any()))
    pose, info = poselib.estimate_relative_pose(
        xy_first,
        xy_second,
        poselib_camera(camera_first),
        poselib_camera(camera_second),
        _ransac(options, max_epipolar_error=options.max_epipolar_error),
        _loss(options),
    )
    inliers = np.array(info["inliers"], bool)
    return EstimatedPose(rigid(pose.R, pose.t), inliers, bool(inliers.any()))


def _is_success(inliers: Mask, options: AbsolutePoseOptions) -> bool:
    """Decide whether an absolute pose has enough inliers. `inliers` is a mask of the points (n,)."""
    has_enough = inliers.sum() >= options.abs_pose_min_num_inliers
    return bool(has_enough and inliers.mean() >= options.abs_pose_min_inlier_ratio)


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
