"""Refinement of the pose of one image in a trained splat, by photometric and reprojection errors.

Levenberg-Marquardt needs about ten renderings. Adam would need about a hundred, each with gradients, and the
length of its first steps is set by the learning rate even if the initial pose is nearly correct.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.geometry.projection import is_visible, to_plane
from nope_splat.geometry.rigid import move_poses, transform
from nope_splat.geometry.robust import cauchy_cost, cauchy_weight, robust_sigma
from nope_splat.refinement.photometric import (
    RenderedView,
    information_weight,
    motion_on_plane,
    photometric_cost,
    pixel_equations,
    robust_noise,
)

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-4, min_damping=0.0, tolerance=0.0)
"""Levenberg-Marquardt options. The tolerance is zero because the minimization stops at a small step length,
not at a small decrease of the cost."""
SMALLEST_STEP = 1e-5
"""The minimization at one resolution stops when a step is shorter than this. The length of a step is the norm
of its 6-vector: rotation in radians, translation in world units."""
MIN_NOISE = 1e-5
"""Lower limit of the standard deviation of observed positions on the plane of the lens (see
`geometry.projection`). It limits the weight of nearly exact observations."""

RenderView = Callable[[Tensor], RenderedView]
"""Function that renders the view of the image, given `T_camera_world` (4, 4)."""


@dataclass(frozen=True)
class Correspondences2d3d:
    """Track points that an image observes, with their observed positions."""

    points: Tensor
    """World coordinates of the track points. (N, 3), float64."""
    plane: Tensor
    """Observed positions (x, y), without distortion, on the plane of the lens: for perspective lenses, the
    plane at depth one in camera coordinates (OpenCV axes). (N, 2), float64."""
    is_fisheye: bool = False
    """Whether the projection is equidistant instead of perspective."""

    def residuals(self, T_camera_world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the reprojection residuals of the n visible points, on the plane of the lens.

        Args:
            T_camera_world: World-to-camera transform. (4, 4).

        Returns:
            Projection minus observation on the plane (n, 2), projections on the plane (n, 2), and points in
            camera coordinates (n, 3).
        """
        camera = transform(T_camera_world, self.points)
        visible = is_visible(camera, self.is_fisheye) if self.is_fisheye else camera[:, 2] > 0
        camera = camera[visible]
        projected = to_plane(camera, self.is_fisheye)
        return projected - self.plane[visible], projected, camera

    def noise(self, T_camera_world: Tensor) -> float:
        """Estimate the standard deviation of the reprojection residuals from their median absolute value.

        Args:
            T_camera_world: World-to-camera transform. (4, 4).

        Returns:
            Standard deviation per axis on the plane, at least `MIN_NOISE`.
        """
        residuals, _, _ = self.residuals(T_camera_world)
        return max(robust_sigma(residuals.abs()), MIN_NOISE) if len(residuals) else MIN_NOISE

    def cost(self, T_camera_world: Tensor, noise: float) -> float:
        """Compute the Cauchy cost of the reprojection residuals.

        Args:
            T_camera_world: World-to-camera transform. (4, 4).
            noise: Standard deviation of the residuals on the plane.

        Returns:
            Summed cost. A point that the lens cannot show counts as a residual of length one on the plane.
        """
        residuals, _, _ = self.residuals(T_camera_world)
        squared = residuals.square().sum(-1) / noise**2
        behind = (len(self.points) - len(residuals)) * cauchy_cost(self.points.new_tensor(noise**-2))
        return float(cauchy_cost(squared).sum() + behind)

    def equations(self, T_camera_world: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Compute the robust normal equations of the reprojection cost for a pose increment.

        Args:
            T_camera_world: World-to-camera transform. (4, 4).
            noise: Standard deviation of the residuals on the plane.

        Returns:
            Normal matrix (6, 6) and gradient (6,) of the pose increment: rotation (3), then translation (3).
        """
        residuals, projected, camera = self.residuals(T_camera_world)
        weight = cauchy_weight(residuals.square().sum(-1) / noise**2) / noise**2
        jacobian = motion_on_plane(camera, projected, self.is_fisheye)[..., :6]
        weighted = weight[:, None, None] * jacobian
        return (
            torch.einsum("nip,niq->pq", weighted, jacobian),
            torch.einsum("nip,ni->p", weighted, residuals),
        )


def refine_single_pose(
    render_view: RenderView,
    T_camera_world: Tensor,
    correspondences: Correspondences2d3d | None,
    max_steps: int,
    pyramid_levels: tuple[int, ...] = (2, 1, 0),
) -> Tensor:
    """Refine a pose by minimizing the sum of its photometric cost and reprojection cost.

    The pose is refined at several image resolutions, from coarse to fine.

    Each kind of residual is divided by its noise, and the photometric cost is weighted by
    `information_weight`, because pixels are correlated. Pixels of objects that no training image shows are
    outliers. The robust cost reduces the weight of outliers that `render_view` does not exclude.

    Args:
        render_view: Function that renders the view at a given pose.
        T_camera_world: Initial world-to-camera transform, OpenCV axes. (4, 4).
        correspondences: Track points that the image observes; None to use the photometric cost alone.
        max_steps: Maximum number of trial steps at each resolution. Each trial step needs one rendering.
        pyramid_levels: For each resolution in turn, the number of times that the image resolution is halved;
            0 is full resolution.

    Returns:
        Refined world-to-camera transform. (4, 4), float64.
    """
    # Every trial step needs a rendering, so the limit applies to trials.
    config = replace(SOLVER, max_iterations=max_steps, max_trials=max_steps, max_evaluations=max_steps)
    pose = T_camera_world.double()
    state = _PosedView(pose, render_view(pose))
    for level in pyramid_levels:
        noise = correspondences.noise(state.pose) if correspondences else MIN_NOISE
        alignment = _PoseAlignment(render_view, correspondences, level, noise)
        result = levenberg_marquardt(alignment, state, config, lambda step: bool(step.norm() < SMALLEST_STEP))
        state = result.state
    return state.pose


class _PosedView(NamedTuple):
    """Pose together with its rendering, which is cached because rendering is expensive."""

    pose: Tensor
    """World-to-camera transform. (4, 4), float64."""
    view: RenderedView
    """Rendering at this pose, with the image."""


@dataclass(frozen=True)
class _PoseAlignment:
    """Refinement of one pose at one resolution, as a problem of `levenberg_marquardt`."""

    render_view: RenderView
    """Function that renders the view at a given pose."""
    correspondences: Correspondences2d3d | None
    """Track points that the image observes; None to use the photometric cost alone."""
    pyramid_level: int
    """Number of times that the image resolution is halved."""
    track_noise: float
    """Standard deviation of the observed positions on the plane."""

    def linearize(self, state: _PosedView) -> _PoseLinearization:
        view = state.view.downsampled(self.pyramid_level)
        noise = robust_noise(view)
        pixels = pixel_equations(view, noise)
        equations, weight = pixels.sum(), information_weight(pixels, view.used)
        matrix, gradient = weight * equations.matrix[:6, :6], weight * equations.gradient[:6]
        if self.correspondences:
            track_matrix, track_gradient = self.correspondences.equations(state.pose, self.track_noise)
            matrix, gradient = matrix + track_matrix, gradient + track_gradient
        return _PoseLinearization(self, state, view.used, noise, weight, matrix, gradient)

    def retract(self, state: _PosedView, step: Tensor) -> _PosedView:
        pose = move_poses(state.pose[None], step[None])[0]
        return _PosedView(pose, self.render_view(pose))


@dataclass(frozen=True)
class _PoseLinearization:
    alignment: _PoseAlignment
    state: _PosedView
    used: Tensor
    """True for the pixels of the downsampled view that have residuals. (H, W), bool."""
    noise: float
    """Standard deviation of the photometric residuals, in units of color (0 to 1)."""
    weight: float
    """Factor on the photometric cost, from `information_weight`."""
    matrix: Tensor
    """Normal matrix of the pose increment: rotation (3), then translation (3). (6, 6)."""
    gradient: Tensor
    """Gradient of the cost with respect to the pose increment. (6,)."""

    @property
    def cost(self) -> float:
        return self.evaluate(self.state)

    def solve(self, damping: float) -> Tensor | None:
        factor, info = torch.linalg.cholesky_ex(self.matrix + damping * self.matrix.diagonal().diag())
        return None if info != 0 else -torch.cholesky_solve(self.gradient[:, None], factor)[:, 0]

    def evaluate(self, candidate: _PosedView) -> float:
        view = replace(candidate.view.downsampled(self.alignment.pyramid_level), used=self.used)
        cost = self.weight * photometric_cost(view, self.noise)
        if self.alignment.correspondences:
            cost += self.alignment.correspondences.cost(candidate.pose, self.alignment.track_noise)
        return cost
