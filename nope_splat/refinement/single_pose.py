"""The best pose of one image in a finished splat, by its colors and by the track points it shows.

Adam would need a hundred renderings with their gradients, and lose its way with its first steps, which are as
long as its learning rate however good the start is. Levenberg-Marquardt needs about ten renderings.
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

PYRAMID_LEVELS = (2, 1, 0)
"""How often the images are halved, from the first resolution to the last."""
SOLVER = LevenbergMarquardtConfig(initial_damping=1e-4, min_damping=0.0, tolerance=0.0)
"""A resolution is done when steps get short, however little they lower the cost."""
SMALLEST_STEP = 1e-5
"""Motion below which a resolution is done, in radians and in world units."""
MIN_NOISE = 1e-5
"""Smallest standard deviation of the sightings at depth one: exact ones must not be worth infinitely much."""

Look = Callable[[Tensor], RenderedView]
"""Renders the image's view from `T_camera_world` (4, 4)."""


@dataclass(frozen=True)
class Correspondences2d3d:
    """Track points that an image shows."""

    points: Tensor
    """World coordinates. (N, 3), float64."""
    plane: Tensor
    """Where they are seen: (x, y) at depth one, camera coordinates in OpenCV axes. (N, 2), float64."""

    def residuals(self, T_camera_world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected minus seen (N, 2), projections (N, 2) and depths (N,) of the points before the camera."""
        camera = transform(T_camera_world, self.points)
        front = camera[:, 2] > 0
        projected = perspective(camera[front])
        return projected - self.plane[front], projected, camera[front, 2]

    def noise(self, T_camera_world: Tensor) -> float:
        """Standard deviation of the residuals by their median absolute value, as if they were normal."""
        residuals, _, _ = self.residuals(T_camera_world)
        return max(robust_sigma(residuals.abs()), MIN_NOISE) if len(residuals) else MIN_NOISE

    def cost(self, T_camera_world: Tensor, noise: float) -> float:
        """Cauchy cost of the residuals; a point behind the camera costs as much as one far away."""
        residuals, _, _ = self.residuals(T_camera_world)
        squared = residuals.square().sum(-1) / noise**2
        behind = (len(self.points) - len(residuals)) * cauchy_cost(self.points.new_tensor(noise**-2))
        return float(cauchy_cost(squared).sum() + behind)

    def equations(self, T_camera_world: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Robust normal equations by the pose's increment: (6, 6) and (6,)."""
        residuals, projected, depths = self.residuals(T_camera_world)
        weight = cauchy_weight(residuals.square().sum(-1) / noise**2) / noise**2
        jacobian = motion_on_plane(projected, depths)[..., :6]
        weighted = weight[:, None, None] * jacobian
        return (
            torch.einsum("nip,niq->pq", weighted, jacobian),
            torch.einsum("nip,ni->p", weighted, residuals),
        )


def minimize(
    look: Look, T_camera_world: Tensor, sightings: Correspondences2d3d | None, max_steps: int
) -> Tensor:
    """Minimize the photometric cost of a pose, coarse to fine, plus the reprojection cost of the sightings.

    Each kind of residual counts in units of its own noise, and the pixels, which depend on each other, as
    much as `information_weight` tells. What no training image shows disagrees with every pose: it is
    left out where it has no opaque, continuous surface, and robustly outvoted elsewhere.

    Args:
        look: Renders the view.
        T_camera_world: World-to-camera transform to start from, OpenCV axes. (4, 4).
        sightings: Track points that the image shows, if any are known.
        max_steps: Most steps at each resolution.

    Returns:
        World-to-camera transform. (4, 4), float64.
    """
    # Each step tried is a rendering, which is what the limit is about.
    config = replace(SOLVER, max_iterations=max_steps, max_trials=max_steps, max_evaluations=max_steps)
    pose = T_camera_world.double()
    state = _PosedView(pose, look(pose))
    for halvings in PYRAMID_LEVELS:
        noise = sightings.noise(state.pose) if sightings else MIN_NOISE
        alignment = _PoseAlignment(look, sightings, halvings, noise)
        result = levenberg_marquardt(alignment, state, config, lambda step: bool(step.norm() < SMALLEST_STEP))
        state = result.state
    return state.pose


class _PosedView(NamedTuple):
    """A pose and what it shows, which is expensive to render."""

    pose: Tensor
    """World-to-camera transform. (4, 4), float64."""
    view: RenderedView
    """The view from there beside the image."""


@dataclass(frozen=True)
class _PoseAlignment:
    """The alignment of one pose at one resolution as a problem of `levenberg_marquardt`."""

    look: Look
    """Renders the view."""
    sightings: Correspondences2d3d | None
    """Track points that the image shows."""
    halvings: int
    """How often images are halved."""
    track_noise: float
    """Standard deviation of the sightings at depth one."""

    def linearize(self, state: _PosedView) -> _PoseLinearization:
        view = state.view.halved(self.halvings)
        noise = robust_noise(view)
        pixels = pixel_equations(view, noise)
        equations, weight = pixels.sum(), information_weight(pixels, view.used)
        matrix, gradient = weight * equations.matrix[:6, :6], weight * equations.gradient[:6]
        if self.sightings:
            track_matrix, track_gradient = self.sightings.equations(state.pose, self.track_noise)
            matrix, gradient = matrix + track_matrix, gradient + track_gradient
        return _PoseLinearization(self, state, view.used, noise, weight, matrix, gradient)

    def retract(self, state: _PosedView, step: Tensor) -> _PosedView:
        pose = move_poses(state.pose[None], step[None])[0]
        return _PosedView(pose, self.look(pose))


@dataclass(frozen=True)
class _PoseLinearization:
    alignment: _PoseAlignment
    state: _PosedView
    used: Tensor
    """Pixels of the halved view that count. (H, W), bool."""
    noise: float
    """Standard deviation of their residuals."""
    weight: float
    """What they are worth."""
    matrix: Tensor
    """Normal equations by the pose's increment. (6, 6)."""
    gradient: Tensor
    """(6,)."""

    @property
    def cost(self) -> float:
        return self.evaluate(self.state)

    def solve(self, damping: float) -> Tensor | None:
        factor, info = torch.linalg.cholesky_ex(self.matrix + damping * self.matrix.diagonal().diag())
        return None if info != 0 else -torch.cholesky_solve(self.gradient[:, None], factor)[:, 0]

    def evaluate(self, candidate: _PosedView) -> float:
        view = replace(candidate.view.halved(self.alignment.halvings), used=self.used)
        cost = self.weight * photometric_cost(view, self.noise)
        if self.alignment.sightings:
            cost += self.alignment.sightings.cost(candidate.pose, self.alignment.track_noise)
        return cost
