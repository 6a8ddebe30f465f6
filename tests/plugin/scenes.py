"""A synthetic scene for the plugin's tests: cameras on an arc, points, and exact or noisy observations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.splatting.losses import TrackObservations


@dataclass(frozen=True)
class TrackScene:
    """Ground truth of a scene in which every view observes every point."""

    points: Tensor
    """Track points. (P, 3)."""
    poses: Tensor
    """Camera-to-world transforms, OpenGL axes. (V, 3, 4)."""
    focal: Tensor
    """Focal length in pixels. ()."""
    observations: TrackObservations
    """What the cameras see."""


def look_at(position: Tensor, target: Tensor) -> Tensor:
    """Camera-to-world transform, OpenGL axes, world z up. (3, 4)."""
    backward = torch.nn.functional.normalize(position - target, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(position.new_tensor([0.0, 0.0, 1.0]), backward), dim=0
    )
    up = torch.linalg.cross(backward, right)
    return torch.stack([right, up, backward, position], dim=1)


def track_scene(num_views: int = 5, num_points: int = 60, noise: float = 0.0, seed: int = 0) -> TrackScene:
    """Cameras on an arc around points at depth about one, in float64.

    Args:
        num_views: Number of cameras.
        num_points: Number of points.
        noise: Standard deviation of the observations in pixels.
        seed: Of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    points = 0.3 * torch.randn(num_points, 3, generator=generator, dtype=torch.float64).clamp(-2, 2)
    angles = torch.linspace(-0.6, 0.6, num_views, dtype=torch.float64)
    positions = torch.stack([angles.sin(), -angles.cos(), 0.3 + 0.1 * angles.cos()], dim=1) * 1.3
    poses = torch.stack([look_at(position, points.mean(dim=0)) for position in positions])
    focal = torch.tensor(900.0, dtype=torch.float64)
    view_ids = torch.arange(num_views).repeat(num_points)
    point_ids = torch.arange(num_points).repeat_interleave(num_views)
    T = world_to_camera(poses)[view_ids]
    in_camera = torch.einsum("oij,oj->oi", T[:, :3, :3], points[point_ids]) + T[:, :3, 3]
    xy = focal * in_camera[:, :2] / in_camera[:, 2:]
    xy = xy + noise * torch.randn(xy.shape, generator=generator, dtype=torch.float64)
    return TrackScene(
        points, poses, focal, TrackObservations(point_ids, view_ids, xy, torch.ones_like(xy[:, 0]))
    )
