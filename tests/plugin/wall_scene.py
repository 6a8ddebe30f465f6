"""Cameras before a curved, painted wall whose pictures, depths and tracks are exact, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from plugin.scenes import track_scene
from torch import Tensor

from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.refinement.photometric import RenderedView, usable_pixels
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, retract
from nope_splat.splatting.lens import distort, undistort

SIZE = (96, 72)
FOCAL = 90.0


def height(x: Tensor, z: Tensor) -> Tensor:
    """The wall's y, which is depth as the middle camera sees it."""
    return 0.15 * torch.sin(3 * x + 1) + 0.1 * torch.cos(4 * z)


def paint(x: Tensor, z: Tensor) -> Tensor:
    """Smooth colours of the wall. (...,) to (..., 3)."""
    waves = [torch.sin(a * x + b * z + c) for a, b, c in ((10, 3, 0), (-4, 12, 1), (7, -8, 2))]
    return 0.5 + 0.2 * torch.stack(waves, -1) + 0.1 * torch.sin(15 * x - 5 * z)[..., None]


def look_at_wall(
    T_camera_world: Tensor,
    focal: Tensor | float,
    photo: Tensor | None = None,
    shift: Tensor | None = None,
    radial: Tensor | None = None,
) -> RenderedView:
    """What a camera sees, beside a photograph; by default its own picture."""
    width, rows = SIZE
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(width), indexing="ij")
    center = torch.tensor([width, rows], dtype=torch.float64) / 2
    center = center if shift is None else center + shift
    plane = (torch.stack([column, row], -1).double() + 0.5 - center) / focal
    plane = plane if radial is None else undistort(plane, radial)
    rays = torch.cat([plane, torch.ones_like(plane[..., :1])], -1) @ T_camera_world[:3, :3]
    origin = -T_camera_world[:3, :3].T @ T_camera_world[:3, 3]
    depth = torch.full(plane.shape[:2], float(-origin[1]), dtype=torch.float64) / rays[..., 1]
    for _ in range(40):  # a fixed point, since the wall is flatter than any ray
        hit = origin + depth[..., None] * rays
        depth = (height(hit[..., 0], hit[..., 2]) - origin[1]) / rays[..., 1]
    hit = origin + depth[..., None] * rays
    picture = paint(hit[..., 0], hit[..., 2])
    focals = torch.ones(2, dtype=torch.float64) * focal
    used = usable_pixels(depth, torch.ones_like(depth))
    return RenderedView(picture, picture if photo is None else photo, depth, used, focals, center, radial)


@dataclass(frozen=True)
class Wall:
    """True cameras, their photographs, and tracks of points on the wall."""

    problem: BundleProblem
    """At the truth, with noisy observations."""
    photos: list[Tensor]
    """Pictures from the true cameras. (H, W, 3) each."""

    def look(self, index: int, T_camera_world: Tensor, intrinsics: Tensor) -> RenderedView:
        """Renders a view, beside its photograph."""
        return look_at_wall(T_camera_world, intrinsics[0].exp(), self.photos[index])

    def look_through_lens(self, index: int, T_camera_world: Tensor, intrinsics: Tensor) -> RenderedView:
        """The same with the whole of the intrinsics."""
        log_focal, shift, radial = intrinsics.split((1, 2, 2))
        return look_at_wall(T_camera_world, log_focal.exp(), self.photos[index], shift, radial)

    def disturbed(
        self,
        degrees: float = 0.3,
        shift: float = 0.01,
        log_focal: float = 0.015,
        lens: tuple[float, ...] = (0, 0, 0, 0),
    ) -> BundleProblem:
        """The problem with wrong cameras."""
        generator = torch.Generator().manual_seed(5)
        count = len(self.problem.T_camera_world)
        noise = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        noise = noise * torch.tensor([torch.pi / 180 * degrees] * 3 + [shift] * 3).double() / 3**0.5
        step = torch.tensor([[log_focal, *lens]]).double()
        return retract(self.problem, noise, torch.zeros_like(self.problem.points), step)

    def error(self, problem: BundleProblem) -> float:
        """Root mean square distance, in pixels, of the wall's points from where the true cameras see them."""
        truth = self.problem
        x, z = torch.rand(2, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
        points = torch.stack([x, height(x, z), z], -1)
        seen = []
        for T, intrinsics in (
            (truth.T_camera_world, truth.intrinsics),
            (problem.T_camera_world, problem.intrinsics),
        ):
            seen.append(project(points, T, intrinsics[0]))
        return float((seen[0] - seen[1]).square().sum(-1).mean().sqrt())


def project(points: Tensor, T_camera_world: Tensor, intrinsics: Tensor) -> Tensor:
    """Where cameras (V, 4, 4) see points (P, 3), in pixels from the image centre. (V, P, 2)."""
    in_camera = points @ T_camera_world[:, :3, :3].mT + T_camera_world[:, None, :3, 3]
    plane = distort(in_camera[..., :2] / in_camera[..., 2:], intrinsics[3:])
    return intrinsics[0].exp() * plane + intrinsics[1:3]


def wall(
    num_points: int = 40,
    noise: float = 0.5,
    num_views: int = 4,
    lens: tuple[float, ...] | None = None,
) -> Wall:
    """Cameras on an arc before the wall.

    Args:
        num_points: Number of track points, seen by all.
        noise: Standard deviation of their observations in pixels.
        num_views: Number of cameras.
        lens: Their principal point from the image centre, in pixels, k1 and k2; by default all zero.
    """
    generator = torch.Generator().manual_seed(0)
    T = world_to_camera(track_scene(num_views=num_views).poses)
    x, z = torch.rand(2, num_points, generator=generator, dtype=torch.float64) - 0.5
    points = torch.stack([x, height(x, z), z], -1)
    intrinsics = torch.tensor([[FOCAL, 1.0, 1.0, 1.0, 1.0]], dtype=torch.float64).log()
    if lens is not None:
        intrinsics[0, 1:] = torch.tensor(lens)
    xy = project(points, T, intrinsics[0]).reshape(-1, 2)
    xy = xy + noise * torch.randn(xy.shape, generator=generator, dtype=torch.float64)
    problem = BundleProblem(
        T_camera_world=T,
        points=points,
        intrinsics=intrinsics,
        intrinsics_ids=torch.zeros(num_views, dtype=torch.int64),
        camera_ids=torch.arange(num_views).repeat_interleave(num_points),
        point_ids=torch.arange(num_points).repeat(num_views),
        xy=xy,
        sigma=torch.ones_like(xy[:, 0]),
        free_cameras=torch.ones(num_views, dtype=torch.bool),
        free_intrinsics=torch.tensor([[True, False, False, False, False]]),
        prior_mean=intrinsics,
        prior_sigma=torch.ones(1, 5, dtype=torch.float64),
    )
    shift, radial = (None, None) if lens is None else (intrinsics[0, 1:3], intrinsics[0, 3:])
    return Wall(problem, [look_at_wall(pose, FOCAL, None, shift, radial).rendered for pose in T])
