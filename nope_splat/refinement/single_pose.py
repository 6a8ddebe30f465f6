"""The best pose of one image in a finished splat, by its colors and by the track points it shows.

Adam would need a hundred renderings with their gradients, and lose its way with its first steps, which are as
long as its learning rate however good the start is. Levenberg-Marquardt needs about ten renderings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nope_splat.geometry.projection import perspective
from nope_splat.geometry.rigid import move_cameras, transform
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
FIRST_DAMPING = 1e-4
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
    pose = T_camera_world.double()
    view = look(pose)
    for halvings in PYRAMID_LEVELS:
        damping, noise = FIRST_DAMPING, sightings.noise(pose) if sightings else MIN_NOISE
        for _ in range(max_steps):
            seen = view.halved(halvings)
            color_noise = robust_noise(seen)
            pixels = pixel_equations(seen, color_noise)
            equations, worth = pixels.sum(), information_weight(pixels, seen.used)
            matrix, gradient = worth * equations.matrix[:6, :6], worth * equations.gradient[:6]
            if sightings:
                track_matrix, track_gradient = sightings.equations(pose, noise)
                matrix, gradient = matrix + track_matrix, gradient + track_gradient
            factor, info = torch.linalg.cholesky_ex(matrix + damping * matrix.diagonal().diag())
            if info != 0:
                break
            motion = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
            candidate = move_cameras(pose[None], motion[None])[0]
            there = look(candidate)
            change = worth * (
                photometric_cost(replace(there.halved(halvings), used=seen.used), color_noise)
                - photometric_cost(seen, color_noise)
            )
            if sightings:
                change += sightings.cost(candidate, noise) - sightings.cost(pose, noise)
            if change < 0:
                pose, view, damping = candidate, there, damping / 10
            else:
                damping *= 10
            if motion.norm() < SMALLEST_STEP:
                break
    return pose
