"""Variables, observations, residuals and derivatives of a bundle adjustment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nope_splat.geometry.distortion import (
    distortion_jacobian,
    radial_scale,
    radial_term_jacobian,
    squared_radius,
)
from nope_splat.geometry.projection import MIN_DEPTH, perspective, projection_jacobian, rotation_jacobian
from nope_splat.geometry.rigid import move_poses, rotate
from nope_splat.geometry.robust import HUBER, huber_cost
from nope_splat.sfm.bundle_adjustment.lens_coupling import coupling_residuals

BEHIND_COST = 1e3
"""Robust cost of an observation whose point lies behind the camera."""
MAX_LOG_FOCAL_STEP = 0.5
"""Maximum change in the natural logarithm of the focal length per Levenberg-Marquardt step."""

BundleStep = tuple[Tensor, Tensor, Tensor]
"""Increments of poses (N, 6), points (P, 3) and intrinsics (K, 5); see `retract`."""


@dataclass(frozen=True)
class BundleProblem:
    """Variables, observations and priors of a bundle adjustment, as tensors on one device.

    There are N images, K cameras (sets of intrinsics that images share), P points and O observations.
    Floating-point tensors are float64, index tensors int64. Intrinsics are `[log(f), dx, dy, k1, k2]`: focal
    length f in pixels, principal point offset (dx, dy) from the image center, radial distortion k1 and k2.
    Image coordinates are in pixels, relative to the image center.
    """

    T_camera_world: Tensor
    """World-to-camera transform of each image (OpenCV axes). (N, 4, 4)."""
    points: Tensor
    """World coordinates of the points. (P, 3)."""
    intrinsics: Tensor
    """Intrinsics of each camera: natural logarithm of the focal length in pixels, principal point minus image
    center (x, y) in pixels, and radial distortion k1 and k2. (K, 5)."""
    camera_ids: Tensor
    """Index of the camera (set of intrinsics) of each image. (N,)."""
    upright_from_sensor: Tensor
    """Rotation and mirroring A that turn the principal point of each image: the offset in the image is
    A (dx, dy). Zeros if unknown. (N, 2, 2)."""
    image_ids: Tensor
    """Index of the image of each observation. (O,)."""
    point_ids: Tensor
    """Index of the point of each observation. (O,)."""
    xy: Tensor
    """Observed image coordinates relative to the image center, in pixels. (O, 2)."""
    sigma: Tensor
    """Standard deviation of the x and of the y coordinate of each observation, in pixels. (O,)."""
    free_poses: Tensor
    """Whether each pose is refined; at least one pose should be fixed to define the world frame. (N,),
    bool."""
    free_intrinsics: Tensor
    """Whether each intrinsic parameter of each camera is refined. (K, 5), bool."""
    prior_mean: Tensor
    """Means of the Gaussian priors on `intrinsics`. (K, 5)."""
    prior_sigma: Tensor
    """Standard deviations of the Gaussian priors on `intrinsics`. (K, 5)."""
    lens_ids: Tensor | None = None
    """For each camera, the index of the first camera with the same lens (see `lens_coupling`); None if no two
    cameras share a lens. (K,)."""
    huber: float = HUBER
    """Width of the Huber loss: norm of a residual, in standard deviations, beyond which the cost grows
    linearly."""

    def intrinsics_of_observations(self) -> Tensor:
        """Return the intrinsics of the camera of each observation. (O, 5)."""
        return self.intrinsics[self.camera_ids[self.image_ids]]

    @cached_property
    def cost(self) -> float:
        """Robust cost of the current variables (see `robust_cost`).

        The value is cached, so that only the first access waits for the GPU.
        """
        return robust_cost(self, reprojection_residuals(self)[0])


@dataclass(frozen=True)
class Linearization:
    """Residuals of all observations, and their Jacobians."""

    residuals: Tensor
    """Projection minus observation, in standard deviations; zero for points behind the camera. (O, 2)."""
    visible: Tensor
    """Whether the point of each observation is in front of the camera. (O,), bool."""
    by_pose: Tensor
    """Derivatives of the residuals with respect to the pose increments, rotation first (see `retract`).
    (O, 2, 6)."""
    by_point: Tensor
    """Derivatives of the residuals with respect to the world coordinates of the point. (O, 2, 3)."""
    by_intrinsics: Tensor
    """Derivatives of the residuals with respect to the intrinsics [log(f), dx, dy, k1, k2]. (O, 2, 5)."""


def reprojection_residuals(problem: BundleProblem) -> tuple[Tensor, Tensor]:
    """Compute the reprojection residuals: projection minus observation.

    Args:
        problem: Variables and observations.

    Returns:
        Residual of each observation in standard deviations, infinite for points behind the camera (O, 2); and
        the point of each observation in camera coordinates (O, 3).
    """
    pose = problem.T_camera_world[problem.image_ids]
    rotated = (pose[:, :3, :3] @ problem.points[problem.point_ids, :, None]).squeeze(-1)
    points_camera = rotated + pose[:, :3, 3]
    depth = points_camera[:, 2:]
    log_focal, offset, k1, k2 = problem.intrinsics_of_observations().split((1, 2, 1, 1), 1)
    offset = rotate(problem.upright_from_sensor[problem.image_ids], offset)
    plane = perspective(points_camera)
    residuals = log_focal.exp() * radial_scale(squared_radius(plane), k1, k2) * plane + offset - problem.xy
    return torch.where(depth > MIN_DEPTH, residuals / problem.sigma[:, None], torch.inf), points_camera


def linearize(problem: BundleProblem) -> Linearization:
    """Compute the reprojection residuals and their derivatives.

    A point X with camera coordinates X_c is projected to p on the plane at depth one and distorted to d(p).
    With the focal length f, the principal point offset, the rotation and mirroring A of the image and the
    observation xy, the residual is r = f d(p) + A offset - xy. With the rotation R of the pose and the pose
    increment (omega, nu) of `move_poses`, the derivatives of r are

        dr/dX_c   = f dd/dp dp/dX_c
        dr/domega = f dd/dp dp/domega     (X_c' = exp([omega]x) X_c + nu)
        dr/dnu    = dr/dX_c,   dr/dX = dr/dX_c R
        dr/dlog f = f d(p),    dr/doffset = A,   dr/d(k1, k2) = f dd/d(k1, k2).

    Residuals and derivatives are divided by the standard deviation of the observation. The derivatives of p
    and d are computed in `geometry.projection` and `geometry.distortion`.

    Args:
        problem: Variables and observations.

    Returns:
        Residuals and Jacobians; both are zero for points behind the camera.
    """
    residuals, points_camera = reprojection_residuals(problem)
    visible = points_camera[:, 2] > MIN_DEPTH
    residuals = torch.where(visible[:, None], residuals, 0.0)
    intrinsics = problem.intrinsics_of_observations()
    # For points behind the camera, set the focal length to zero, so that all derivatives are zero.
    focal = torch.where(visible, intrinsics[:, 0].exp() / problem.sigma, 0.0)
    unit = visible.to(focal) / problem.sigma
    inverse_depth = torch.where(visible, 1 / points_camera[:, 2], 0.0)
    plane = points_camera[:, :2] * inverse_depth[:, None]
    square, radial = squared_radius(plane), intrinsics[:, 3:]
    bend = distortion_jacobian(plane, radial)
    by_position = bend @ projection_jacobian(plane, focal * inverse_depth)
    by_rotation = bend @ (focal[:, None, None] * rotation_jacobian(plane))
    by_point = by_position @ problem.T_camera_world[problem.image_ids, :3, :3]
    scaled = focal[:, None] * plane
    by_focal = radial_scale(square, radial[:, :1], radial[:, 1:]) * scaled
    by_offset = unit[:, None, None] * problem.upright_from_sensor[problem.image_ids]
    by_intrinsics = torch.cat([by_focal[..., None], by_offset, radial_term_jacobian(scaled, square)], -1)
    return Linearization(
        residuals, visible, torch.cat([by_rotation, by_position], -1), by_point, by_intrinsics
    )


def retract(problem: BundleProblem, d_poses: Tensor, d_points: Tensor, d_intrinsics: Tensor) -> BundleProblem:
    """Apply an increment to the variables of a problem.

    Args:
        problem: Problem with the current variables.
        d_poses: Rotation and translation increments of the poses (see `move_poses`). (N, 6).
        d_points: Increments of the points. (P, 3).
        d_intrinsics: Increments of the intrinsics. The focal length changes by at most a factor of e^0.5.
            (K, 5).

    Returns:
        The problem with the new variables.
    """
    limit = torch.full_like(d_intrinsics, torch.inf)
    limit[:, 0] = MAX_LOG_FOCAL_STEP
    return replace(
        problem,
        T_camera_world=move_poses(problem.T_camera_world, d_poses),
        points=problem.points + d_points,
        intrinsics=problem.intrinsics + d_intrinsics.clamp(-limit, limit),
    )


def robust_cost(problem: BundleProblem, residuals: Tensor) -> float:
    """Compute the Huber cost of the residuals plus the cost of the priors.

    Args:
        problem: Variables, Huber width and priors.
        residuals: Residuals in standard deviations, from `reprojection_residuals`. (O, 2).

    Returns:
        Sum of the Huber costs of all observations, plus the sum of the squares of (intrinsics - prior mean) /
        prior standard deviation, plus the sum of the squared `coupling_residuals`.
    """
    cost = huber_cost(residuals.norm(dim=1) ** 2, problem.huber)
    cost = cost.nan_to_num(posinf=BEHIND_COST)
    prior = ((problem.intrinsics - problem.prior_mean) / problem.prior_sigma).square().sum()
    if problem.lens_ids is not None:
        prior = prior + coupling_residuals(problem.intrinsics, problem.lens_ids).square().sum()
    return float(cost.sum() + prior)
