"""Variables, observations, residuals and derivatives of a bundle adjustment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nope_splat.geometry.distortion import (
    distort,
    distortion_jacobian,
    distortion_term_jacobian,
    turn_distortion,
)
from nope_splat.geometry.projection import (
    LensModel,
    equidistant_jacobian,
    is_visible,
    projection_jacobian,
    rotation_jacobian,
    to_plane,
)
from nope_splat.geometry.rigid import move_poses, rotate, skew
from nope_splat.geometry.robust import HUBER, huber_cost
from nope_splat.sfm.bundle_adjustment.lens_coupling import coupling_residuals

NUM_INTRINSICS = 9
"""Number of intrinsics of a camera: [log(f), dx, dy, k1, k2, k3, k4, p1, p2]."""
BEHIND_COST = 1e3
"""Robust cost of an observation whose point lies behind the camera."""
MAX_LOG_FOCAL_STEP = 0.5
"""Maximum change in the natural logarithm of the focal length per Levenberg-Marquardt step."""

BundleStep = tuple[Tensor, Tensor, Tensor]
"""Increments of poses (N, 6), points (P, 3) and intrinsics (K, 9); see `retract`."""


@dataclass(frozen=True)
class BundleProblem:
    """Variables, observations and priors of a bundle adjustment, as tensors on one device.

    There are N images, K cameras (sets of intrinsics that images share), P points and O observations.
    Floating-point tensors are float64, index tensors int64. Intrinsics are
    `[log(f), dx, dy, k1, k2, k3, k4, p1, p2]`: focal length f in pixels, principal point offset (dx, dy) from
    the image center, and distortion (see `geometry.distortion`). Image coordinates are in pixels, relative to
    the image center.
    """

    T_camera_world: Tensor
    """World-to-camera transform of each image (OpenCV axes). (N, 4, 4)."""
    points: Tensor
    """World coordinates of the points. (P, 3)."""
    intrinsics: Tensor
    """Intrinsics of each camera: natural logarithm of the focal length in pixels, principal point minus image
    center (x, y) in pixels, and distortion coefficients k1, k2, k3, k4, p1 and p2. (K, 9)."""
    camera_ids: Tensor
    """Index of the camera (set of intrinsics) of each image. (N,)."""
    upright_from_sensor: Tensor
    """Rotation and mirroring A that turn the principal point and the tangential distortion of each image: the
    offset in the image is A (dx, dy), and the vector (p2, p1) becomes A (p2, p1). Zeros if unknown.
    (N, 2, 2)."""
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
    """Whether each intrinsic parameter of each camera is refined. (K, 9), bool."""
    prior_mean: Tensor
    """Means of the Gaussian priors on `intrinsics`. (K, 9)."""
    prior_sigma: Tensor
    """Standard deviations of the Gaussian priors on `intrinsics`. (K, 9)."""
    is_fisheye: Tensor | None = None
    """Whether the projection of each camera is equidistant instead of perspective; None if no camera has a
    fisheye lens. (K,), bool."""
    lens_ids: Tensor | None = None
    """For each camera, the index of the first camera with the same lens (see `lens_coupling`); None if no two
    cameras share a lens. (K,)."""
    huber: float = HUBER
    """Width of the Huber loss: norm of a residual, in standard deviations, beyond which the cost grows
    linearly."""

    @cached_property
    def columns(self) -> Tensor:
        """Indices of the C intrinsics that are refined for at least one camera; log(f) if there are none.

        Derivatives are computed for these intrinsics only. (C,).
        """
        refined = torch.nonzero(self.free_intrinsics.any(0)).squeeze(-1)
        return refined if len(refined) else torch.zeros_like(self.camera_ids[:1])

    def focals_of_observations(self) -> Tensor:
        """Return the focal length of the camera of each observation, in pixels. (O,)."""
        return self.intrinsics[:, 0].exp()[self.camera_ids[self.image_ids]]

    def offsets_of_observations(self) -> Tensor:
        """Return the principal point of the image of each observation, in pixels. (O, 2)."""
        offsets = self.intrinsics[self.camera_ids, 1:3]
        return rotate(self.upright_from_sensor, offsets)[self.image_ids]

    def lenses_of_observations(self) -> LensModel:
        """Return the lens of each observation, for the pixels of its image."""
        terms = turn_distortion(self.intrinsics[self.camera_ids, 3:], self.upright_from_sensor)
        is_fisheye = False if self.is_fisheye is None else self.is_fisheye[self.camera_ids[self.image_ids]]
        return LensModel(terms[self.image_ids], is_fisheye)

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
    """Projection minus observation, in standard deviations; zero for points that the lens cannot show.
    (O, 2)."""
    visible: Tensor
    """Whether the lens can show the point of each observation (see `is_visible`). (O,), bool."""
    by_pose: Tensor
    """Derivatives of the residuals with respect to the pose increments, rotation first (see `retract`).
    (O, 2, 6)."""
    by_point: Tensor
    """Derivatives of the residuals with respect to the world coordinates of the point. (O, 2, 3)."""
    by_intrinsics: Tensor
    """Derivatives of the residuals with respect to the intrinsics `BundleProblem.columns`. (O, 2, C)."""


def reprojection_residuals(problem: BundleProblem) -> tuple[Tensor, Tensor]:
    """Compute the reprojection residuals: projection minus observation.

    Args:
        problem: Variables and observations.

    Returns:
        Residual of each observation in standard deviations, infinite for points that the lens cannot show,
        such as those behind a pinhole camera (O, 2); and the point of each observation in camera coordinates
        (O, 3).
    """
    pose = problem.T_camera_world[problem.image_ids]
    rotated = (pose[:, :3, :3] @ problem.points[problem.point_ids, :, None]).squeeze(-1)
    points_camera = rotated + pose[:, :3, 3]
    lenses = problem.lenses_of_observations()
    plane = distort(to_plane(points_camera, lenses.is_fisheye), lenses.distortion)
    projected = problem.focals_of_observations()[:, None] * plane + problem.offsets_of_observations()
    residuals = (projected - problem.xy) / problem.sigma[:, None]
    visible = is_visible(points_camera, lenses.is_fisheye)
    return torch.where(visible[:, None], residuals, torch.inf), points_camera


def linearize(problem: BundleProblem) -> Linearization:
    """Compute the reprojection residuals and their derivatives.

    A point X with camera coordinates X_c is projected to p on the plane of the lens and distorted to d(p).
    With the focal length f, the principal point offset, the rotation and mirroring A of the image and the
    observation xy, the residual is r = f d(p) + A offset - xy. With the rotation R of the pose and the pose
    increment (omega, nu) of `move_poses`, the derivatives of r are

        dr/dX_c   = f dd/dp dp/dX_c
        dr/domega = f dd/dp dp/domega     (X_c' = exp([omega]x) X_c + nu)
        dr/dnu    = dr/dX_c,   dr/dX = dr/dX_c R
        dr/dlog f = f d(p),    dr/doffset = A,   dr/dk = f dd/dk,   dr/d(p2, p1) = f dd/da A,

    where a is (p2, p1), turned upright by A. Residuals and derivatives are divided by the standard deviation
    of the observation. The derivatives of p and d are computed in `geometry.projection` and
    `geometry.distortion`.

    Args:
        problem: Variables and observations.

    Returns:
        Residuals and Jacobians; both are zero for points that the lens cannot show.
    """
    residuals, points_camera = reprojection_residuals(problem)
    lenses = problem.lenses_of_observations()
    visible = is_visible(points_camera, lenses.is_fisheye)
    residuals = torch.where(visible[:, None], residuals, 0.0)
    # For points that the lens cannot show, set the focal length to zero, so that all derivatives are zero.
    focal = torch.where(visible, problem.focals_of_observations() / problem.sigma, 0.0)
    points_camera = torch.where(visible[:, None], points_camera, 1.0)
    plane = to_plane(points_camera, lenses.is_fisheye)
    bend = distortion_jacobian(plane, lenses.distortion)
    by_rotation, by_position = _point_jacobians(points_camera, plane, focal, lenses.is_fisheye)
    by_pose = torch.cat([bend @ by_rotation, bend @ by_position], -1)
    by_point = by_pose[..., 3:] @ problem.T_camera_world[problem.image_ids, :3, :3]
    return Linearization(
        residuals, visible, by_pose, by_point, _intrinsics_jacobian(problem, lenses, plane, focal)
    )


def _point_jacobians(
    points_camera: Tensor, plane: Tensor, focal: Tensor, is_fisheye: Tensor | bool
) -> tuple[Tensor, Tensor]:
    """Compute the derivatives of undistorted projections by a rotation and by a translation of the point.

    Args:
        points_camera: Points in camera coordinates. (O, 3).
        plane: Undistorted projections of the points (see `to_plane`). (O, 2).
        focal: Focal lengths, with which the derivatives are multiplied. (O,).
        is_fisheye: Mask of the equidistant projections (O,), or False if there are none.

    Returns:
        Derivatives with respect to a rotation of the point about the camera center, and with respect to a
        translation. (O, 2, 3) each.
    """
    by_position = projection_jacobian(plane, focal / points_camera[:, 2])
    by_rotation = focal[:, None, None] * rotation_jacobian(plane)
    if is_fisheye is False:
        return by_rotation, by_position
    fisheye = focal[:, None, None] * equidistant_jacobian(points_camera)
    mask = torch.as_tensor(is_fisheye, device=plane.device)[..., None, None]
    by_position = torch.where(mask, fisheye, by_position)
    return torch.where(mask, -fisheye @ skew(points_camera), by_rotation), by_position


def _intrinsics_jacobian(problem: BundleProblem, lenses: LensModel, plane: Tensor, focal: Tensor) -> Tensor:
    """Compute the derivatives of the residuals with respect to the refined intrinsics.

    Args:
        problem: Variables and observations.
        lenses: Lens of each observation.
        plane: Undistorted projections on the plane of the lens. (O, 2).
        focal: Focal lengths in standard deviations of the observations; zero for points that the lens cannot
            show. (O,).

    Returns:
        Derivatives with respect to the intrinsics `problem.columns`. (O, 2, C).
    """
    turns = problem.upright_from_sensor[problem.image_ids]
    by_focal = (focal[:, None] * distort(plane, lenses.distortion))[..., None]
    if problem.columns.tolist() == [0]:
        return by_focal
    unit = (focal != 0).to(focal) / problem.sigma
    by_terms = focal[:, None, None] * distortion_term_jacobian(plane)
    by_tangential = (by_terms[..., [5, 4]] @ turns)[..., [1, 0]]
    all_columns = torch.cat([by_focal, unit[:, None, None] * turns, by_terms[..., :4], by_tangential], -1)
    return all_columns[..., problem.columns]


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
