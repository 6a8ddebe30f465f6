"""Refine the pose of one image in a finished splat, by photometric and reprojection errors.

Levenberg-Marquardt needs about ten renderings. Adam would need a hundred with gradients, and its first steps
are as long as its learning rate, however good the initial pose is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.geometry.projection import perspective
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
"""Damping; the criterion to stop is the length of a step, not the decrease of the cost."""
SMALLEST_STEP = 1e-5
"""Step length below which a resolution is finished, in radians and in world units."""
MIN_NOISE = 1e-5
"""Minimum standard deviation of the observations at depth one, which limits the weight of exact ones."""

RenderView = Callable[[Tensor], RenderedView]
"""Function that renders the view of the image at `T_camera_world` (4, 4)."""


@dataclass(frozen=True)
class Correspondences2d3d:
    """Track points that an image observes."""

    points: Tensor
    """World coordinates. (N, 3), float64."""
    plane: Tensor
    """Observed points (x, y) at depth one, camera coordinates in OpenCV axes. (N, 2), float64."""

    def residuals(self, T_camera_world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute residuals of the points in front of the camera.

        Args:
            T_camera_world: World-to-camera transform. (4, 4).

        Returns:
            Projection minus observation (n, 2), projections (n, 2) and depths (n,).
        """
        camera = transform(T_camera_world, self.points)
        front = camera[:, 2] > 0
        projected = perspective(camera[front])
        return projected - self.plane[front], projected, camera[front, 2]

    def noise(self, T_camera_world: Tensor) -> float:
        """Estimate the standard deviation of the residuals by their median absolute value."""
        residuals, _, _ = self.residuals(T_camera_world)
        return max(robust_sigma(residuals.abs()), MIN_NOISE) if len(residuals) else MIN_NOISE

    def cost(self, T_camera_world: Tensor, noise: float) -> float:
        """Compute the Cauchy cost of the residuals; points behind the camera have a residual of one."""
        residuals, _, _ = self.residuals(T_camera_world)
        squared = residuals.square().sum(-1) / noise**2
        behind = (len(self.points) - len(residuals)) * cauchy_cost(self.points.new_tensor(noise**-2))
        return float(cauchy_cost(squared).sum() + behind)

    def equations(self, T_camera_world: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Compute the robust normal equations of the pose increment. (6, 6), (6,)."""
        residuals, projected, depths = self.residuals(T_camera_world)
        weight = cauchy_weight(residuals.square().sum(-1) / noise**2) / noise**2
        jacobian = motion_on_plane(projected, depths)[..., :6]
        weighted = weight[:, None, None] * jacobian
        return (
            torch.einsum("nip,niq->pq", weighted, jacobian),
            torch.einsum("nip,ni->p", weighted, residuals),
        )


def minimize(
    render_view: RenderView,
    T_camera_world: Tensor,
    correspondences: Correspondences2d3d | None,
    max_steps: int,
    pyramid_levels: tuple[int, ...] = (2, 1, 0),
) -> Tensor:
    """Minimize the photometric cost of a pose plus its reprojection cost, coarse to fine.

    Each kind of residual is divided by its noise, and the photometric cost is weighted by
    `information_weight`, because pixels are correlated. Objects that no training image shows are outliers:
    pixels without an opaque, continuous surface are excluded, and the robust cost reduces the weight of
    others.

    Args:
        render_view: Function that renders the view.
        T_camera_world: Initial world-to-camera transform, OpenCV axes. (4, 4).
        correspondences: Track points that the image observes, if known.
        max_steps: Maximum number of steps at each resolution.
        pyramid_levels: Number of halvings of the images, from the first resolution to the last.

    Returns:
        World-to-camera transform. (4, 4), float64.
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
    """Pose with its rendering, which is cached because it is expensive."""

    pose: Tensor
    """World-to-camera transform. (4, 4), float64."""
    view: RenderedView
    """Rendering at this pose, with the image."""


@dataclass(frozen=True)
class _PoseAlignment:
    """Alignment of one pose at one resolution as a problem of `levenberg_marquardt`."""

    render_view: RenderView
    """Function that renders the view."""
    correspondences: Correspondences2d3d | None
    """Track points that the image observes."""
    pyramid_level: int
    """Number of halvings of the images."""
    track_noise: float
    """Standard deviation of the observed points at depth one."""

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
    """Mask of the pixels in the downsampled view that have residuals. (H, W), bool."""
    noise: float
    """Standard deviation of the residuals."""
    weight: float
    """Weight of the photometric cost."""
    matrix: Tensor
    """Matrix of the normal equations of the pose increment. (6, 6)."""
    gradient: Tensor
    """Gradient of the normal equations. (6,)."""

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
