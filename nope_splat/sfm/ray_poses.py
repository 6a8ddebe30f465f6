"""Robust estimation of absolute and relative poses from viewing rays, for wide-angle lenses.

Pixels of a fisheye lens have no position on the plane at depth one if they show points beside the camera, and
a pixel there is many times as large as in the center. Here, errors are angles between rays, multiplied by the
focal length. The minimal solvers are those of poselib; each improved model is refined on its inliers
(LO-RANSAC, Chum et al. 2003).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import poselib
from scipy.optimize import least_squares

from nope_splat.geometry.epipolar import essential_matrix, ray_errors, signed_ray_errors
from nope_splat.geometry.rigid import move_poses, rigid, transform
from nope_splat.geometry.robust import cauchy_weight
from nope_splat.sfm.pose_options import AbsolutePoseOptions, RelativePoseOptions
from nope_splat.utils.typing import Array, Indices, Mask

CONFIDENCE = 0.9999
"""Probability with which RANSAC finds a sample without outliers before it stops."""
NUM_REFINEMENT_STEPS = 5
"""Number of Gauss-Newton steps that refine an absolute pose on its inliers."""
MAX_NUM_EVALUATIONS = 30
"""Maximum number of evaluations of the errors in the refinement of a relative pose."""


def absolute_pose_from_rays(
    rays: Array, points: Array, focal: float, options: AbsolutePoseOptions
) -> tuple[Array, Mask]:
    """Estimate the pose of an image from viewing rays and known 3D points (P3P in RANSAC).

    Args:
        rays: Viewing rays of the points in camera coordinates (OpenCV axes), of any length. (n, 3).
        points: World coordinates of the points. (n, 3).
        focal: Pixels per radian.
        options: Inlier threshold in pixels, and number of iterations.

    Returns:
        World-to-camera transform (4, 4), and whether each point is an inlier (n,); the identity without
        inliers if no pose is found.
    """
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def solve(sample: Indices) -> list[Array]:
        return [rigid(pose.R, pose.t) for pose in poselib.p3p(rays[sample], points[sample])]

    def errors(T: Array) -> Array:
        return focal * angular_errors(T, rays, points)

    def refine(T: Array, inliers: Mask) -> Array:
        rows = np.zeros(int(inliers.sum()), np.int64)
        focals, poses = np.full((len(rows), 1), focal), T[None]
        for _ in range(NUM_REFINEMENT_STEPS):
            poses = refine_poses(poses, rows, rays[inliers], points[inliers], focals, options.loss_scale)
        return poses[0]

    return _ransac(_Model(len(rays), 3, solve, errors, refine), options.abs_pose_max_error, options)


def relative_pose_from_rays(
    rays_first: Array, rays_second: Array, focals: tuple[float, float], options: RelativePoseOptions
) -> tuple[Array, Mask]:
    """Estimate the relative pose of a pair from viewing rays (five-point algorithm in RANSAC).

    Args:
        rays_first: Viewing rays of the matches in the first camera (OpenCV axes), of any length. (n, 3).
        rays_second: Viewing rays of the matches in the second camera. (n, 3).
        focals: Pixels per radian of both cameras.
        options: Inlier threshold in pixels, and number of iterations.

    Returns:
        Transform from the first to the second camera, with a translation of length one (4, 4); and whether
        each match is an inlier (n,). The identity without inliers if no pose is found.
    """
    rays_first, rays_second = (
        rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (rays_first, rays_second)
    )

    def solve(sample: Indices) -> list[Array]:
        return [
            rigid(pose.R, pose.t / np.linalg.norm(pose.t))
            for pose in poselib.relpose_5pt(rays_first[sample], rays_second[sample])
        ]

    def errors(T: Array) -> Array:
        return ray_errors(rays_first, rays_second, essential_matrix(T), *focals)

    def refine(T: Array, inliers: Mask) -> Array:
        first, second = rays_first[inliers], rays_second[inliers]

        def moved(step: Array) -> Array:
            pose = move_poses(T[None], (step @ _pose_directions(T).T)[None])[0]
            pose[:3, 3] /= np.linalg.norm(pose[:3, 3])
            return pose

        def residuals(step: Array) -> Array:
            return signed_ray_errors(first, second, essential_matrix(moved(step)), *focals)

        result = least_squares(
            residuals, np.zeros(5), loss="cauchy", f_scale=options.loss_scale, max_nfev=MAX_NUM_EVALUATIONS
        )
        return moved(result.x)

    return _ransac(_Model(len(rays_first), 5, solve, errors, refine), options.max_epipolar_error, options)


def angular_errors(T_camera_world: Array, rays: Array, points: Array) -> Array:
    """Compute the angles between viewing rays and the directions of points.

    Args:
        T_camera_world: World-to-camera transform. (4, 4).
        rays: Unit viewing rays. (n, 3).
        points: World coordinates. (n, 3).

    Returns:
        Angles in radians. (n,).
    """
    points_camera = transform(T_camera_world, points)
    sine = np.linalg.norm(np.cross(rays, points_camera), axis=1)
    return np.arctan2(sine, np.einsum("ni,ni->n", rays, points_camera))


def refine_poses(
    T_camera_world: Array, cameras: Indices, rays: Array, points: Array, focal: Array, loss_scale: float
) -> Array:
    """Take one Gauss-Newton step for the distances of points from the viewing rays of their observations.

    The distance of each point from the ray is divided by the distance between point and camera, which gives
    an angle, and multiplied by the focal length, which gives pixels. The loss is the Cauchy loss.

    Args:
        T_camera_world: World-to-camera transform of each image. (B, 4, 4).
        cameras: Index of the image of each observation. (n,).
        rays: Unit viewing rays in camera coordinates. (n, 3).
        points: World coordinates of the observed points. (n, 3).
        focal: Focal length of each observation, in pixels. (n, 1).
        loss_scale: Width of the Cauchy loss, in pixels.

    Returns:
        The moved poses. (B, 4, 4).
    """
    points_camera = transform(T_camera_world[cameras], points)
    scale = focal / np.linalg.norm(points_camera, axis=1, keepdims=True)
    residual = scale * _across(rays, points_camera)
    # For pose increments (see `move_poses`) Y' = exp([omega]x) Y + nu: dY/domega = -[Y]x and dY/dnu = I.
    jacobian = np.zeros((len(rays), 3, 6))
    for axis, unit in enumerate(np.eye(3)):
        jacobian[:, :, axis] = scale * _across(rays, np.cross(unit, points_camera))
        jacobian[:, :, 3 + axis] = scale * _across(rays, unit)
    weight = cauchy_weight((residual**2).sum(axis=1), loss_scale)
    normal = np.zeros((len(T_camera_world), 6, 6))
    gradient = np.zeros((len(T_camera_world), 6))
    np.add.at(normal, cameras, np.einsum("n,nki,nkj->nij", weight, jacobian, jacobian))
    np.add.at(gradient, cameras, np.einsum("n,nki,nk->ni", weight, jacobian, residual))
    # A small multiple of the trace keeps the equations solvable for images with too few points.
    normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(6) + 1e-12 * np.eye(6)
    step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
    return move_poses(T_camera_world, step)


class _Model(NamedTuple):
    """Pose estimation problem for `_ransac`."""

    num_correspondences: int
    """Number n of correspondences."""
    sample_size: int
    """Number of correspondences from which `solve` computes poses."""
    solve: Callable[[Indices], list[Array]]
    """Function that computes candidate poses (4, 4) from the indices of a sample."""
    errors: Callable[[Array], Array]
    """Function that computes the errors (n,) of all correspondences for a pose."""
    refine: Callable[[Array, Mask], Array]
    """Function that refines a pose on its inliers."""


def _ransac(
    model: _Model, max_error: float, options: AbsolutePoseOptions | RelativePoseOptions
) -> tuple[Array, Mask]:
    """Find the pose with the smallest sum of squared errors, each limited to the inlier threshold (MSAC).

    Args:
        model: Minimal solver, errors and refinement.
        max_error: Inlier threshold.
        options: Minimum and maximum number of iterations, and random seed.

    Returns:
        The best pose (4, 4) and its inliers (n,).
    """
    count, sample_size = model.num_correspondences, model.sample_size
    best, best_score, inliers = np.eye(4), np.inf, np.zeros(count, bool)
    if count < sample_size:
        return best, inliers
    rng, max_trials, trial = np.random.default_rng(options.random_seed), options.max_num_trials, 0
    while trial < max_trials:
        trial += 1
        for pose in model.solve(rng.choice(count, sample_size, replace=False)):
            for refined in (False, True):
                pose = model.refine(pose, inliers) if refined else pose
                values = model.errors(pose)
                score = float((np.minimum(values, max_error) ** 2).sum())
                if not score < best_score:
                    break
                best, best_score, inliers = pose, score, values < max_error
                if inliers.sum() <= sample_size:
                    break
        good = float(inliers.mean()) ** sample_size
        needed = math.log(1 - CONFIDENCE) / math.log1p(-good) if 0 < good < 1 else 0 if good else np.inf
        max_trials = min(options.max_num_trials, max(options.min_num_trials, needed))
    if inliers.sum() > sample_size:  # outliers below the threshold favored a pose near the best one
        best = model.refine(best, inliers)
        inliers = model.errors(best) < max_error
    return best, inliers


def _pose_directions(T: Array) -> Array:
    """Return five directions of pose increments (see `move_poses`) that determine a relative pose. (6, 5).

    Columns 0 to 2 are the rotation; columns 3 and 4 move the translation orthogonally to itself.
    """
    directions = np.zeros((6, 5))
    directions[:3, :3] = np.eye(3)
    directions[3:, 3:] = np.linalg.qr(np.column_stack([T[:3, 3], np.eye(3)]))[0][:, 1:3]
    return directions


def _across(rays: Array, vectors: Array) -> Array:
    """Compute the component of vectors orthogonal to rays.

    Args:
        rays: Unit vectors. (n, 3).
        vectors: One vector per ray, or one for all rays. (n, 3) or (3,).

    Returns:
        The orthogonal components. (n, 3).
    """
    return vectors - rays * (rays * vectors).sum(axis=1, keepdims=True)
