"""Photometric, track and scale losses.

- Gradients agree with finite differences in float64.
- Photometric and track losses are zero at the truth; track losses recover poses, focal length and points.
- The 3D track loss equals the world distance, and cannot be lowered by shrinking the scene.
- The scale loss shrinks Gaussians; masked pixels affect neither the photometric loss nor its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fixtures.scenes import TrackScene, track_scene
from torch import Tensor

from nope_splat.plugin.camera_optimizer import NopeCameraOptimizer, NopeCameraOptimizerConfig, world_to_camera
from nope_splat.splatting.losses import (
    TrackObservations,
    photometric_loss,
    scale_loss,
    track_2d_loss,
    track_3d_loss,
)

TRACK_LOSSES = [track_2d_loss, track_3d_loss]


def optimizer_for(scene: TrackScene, focal: float) -> NopeCameraOptimizer:
    cameras = NopeCameraOptimizer(NopeCameraOptimizerConfig(mode="SE3"), len(scene.poses), "cpu").double()
    cameras.set_base(scene.poses, focal)
    return cameras


@pytest.mark.parametrize("noise", [0.2, 5.0], ids=["quadratic", "linear"])
def test_track_2d_gradients(noise: float) -> None:
    scene = track_scene(num_views=3, num_points=7, noise=noise)
    inputs = (scene.points, world_to_camera(scene.poses), scene.focal)
    assert torch.autograd.gradcheck(
        lambda points, T, focal: track_2d_loss(points, T, focal, scene.observations),
        [x.clone().requires_grad_() for x in inputs],
    )


@pytest.mark.parametrize("noise", [0.2, 5.0], ids=["quadratic", "linear"])
def test_track_3d_gradients_match_finite_differences_at_fixed_depths(noise: float) -> None:
    scene = track_scene(num_views=3, num_points=7, noise=noise)
    inputs = (scene.points.clone(), world_to_camera(scene.poses), scene.focal.clone())
    points, T_camera_world, focal = (tensor.requires_grad_() for tensor in inputs)
    depths = backprojection(scene)[0]

    def fixed_depth_loss(points: Tensor, T_camera_world: Tensor, focal: Tensor) -> Tensor:
        T = T_camera_world[scene.observations.view_ids]
        in_camera = (
            torch.einsum("oij,oj->oi", T[:, :3, :3], points[scene.observations.point_ids]) + T[:, :3, 3]
        )
        pixels = depths * (focal * in_camera[:, :2] / in_camera[:, 2:] - scene.observations.xy)
        return huber(pixels.norm(dim=-1))

    assert torch.autograd.gradcheck(fixed_depth_loss, inputs)
    expected = torch.autograd.grad(fixed_depth_loss(points, T_camera_world, focal), inputs)
    actual = torch.autograd.grad(track_3d_loss(points, T_camera_world, focal, scene.observations), inputs)
    for e, a in zip(expected, actual, strict=True):
        torch.testing.assert_close(a, e)


def huber(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 1, lengths - 0.5, 0.5 * lengths**2).mean()


def backprojection(scene: TrackScene, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Compute depths (O, 1) and the 3D track loss by its definition, differentiable in every factor."""
    points, poses = (
        scale * scene.points,
        torch.cat([scene.poses[..., :3], scale * scene.poses[..., 3:]], dim=-1),
    )
    T = world_to_camera(poses)[scene.observations.view_ids]
    track_points = points[scene.observations.point_ids]
    depths = (T[:, 2:3, :3] @ track_points[..., None])[..., 0] + T[:, 2, 3:]
    rays = torch.cat([scene.observations.xy / scene.focal, torch.ones_like(depths)], dim=-1)
    T_world_camera = torch.linalg.inv(T)
    unprojected = (
        torch.einsum("oij,oj->oi", T_world_camera[:, :3, :3], depths * rays) + T_world_camera[:, :3, 3]
    )
    return depths, huber(scene.focal * (unprojected - track_points).norm(dim=-1))


def test_track_3d_equals_the_world_distance() -> None:
    scene = track_scene(noise=2.0)
    actual = track_3d_loss(scene.points, world_to_camera(scene.poses), scene.focal, scene.observations)
    torch.testing.assert_close(actual, backprojection(scene)[1])


@pytest.mark.parametrize("loss", TRACK_LOSSES)
def test_track_losses_vanish_at_the_truth(loss: Callable[..., Tensor]) -> None:
    scene = track_scene()
    assert loss(scene.points, world_to_camera(scene.poses), scene.focal, scene.observations) < 1e-16


@pytest.mark.parametrize("loss", TRACK_LOSSES)
def test_track_losses_recover_perturbed_poses_and_points(loss: Callable[..., Tensor]) -> None:
    """Up to a similarity of the whole scene, which no loss determines."""
    scene = track_scene()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(len(scene.poses), 6, generator=generator, dtype=torch.float64)
    cameras = optimizer_for(scene, float(scene.focal))
    cameras.pose_adjustment.data = 0.01 * noise
    points = (scene.points + 0.01 * torch.randn(scene.points.shape, generator=generator)).requires_grad_()
    adam = torch.optim.Adam([cameras.pose_adjustment, points], lr=1e-3)

    def error() -> float:
        projected = track_2d_loss(points, world_to_camera(cameras.poses()), scene.focal, scene.observations)
        return projected.item()

    before = error()
    for _ in range(200):
        adam.zero_grad()
        loss(points, world_to_camera(cameras.poses()), cameras.focal(), scene.observations).backward()
        adam.step()
    assert error() < 0.05 * before


@pytest.mark.parametrize("loss", TRACK_LOSSES)
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_track_losses_recover_the_focal_length(loss: Callable[..., Tensor], factor: float) -> None:
    scene = track_scene()
    cameras = optimizer_for(scene, factor * float(scene.focal))
    adam = torch.optim.Adam([cameras.log_focal], lr=1e-3)
    for _ in range(100):
        adam.zero_grad()
        loss(scene.points, world_to_camera(scene.poses), cameras.focal(), scene.observations).backward()
        adam.step()
    assert cameras.focal().item() == pytest.approx(float(scene.focal), rel=1e-3)


def test_track_3d_cannot_be_lowered_by_shrinking_the_scene() -> None:
    """The definition, differentiated through the depths, can."""
    scene = track_scene(noise=2.0)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (naive,) = torch.autograd.grad(backprojection(scene, scale)[1], scale)
    poses = torch.cat([scene.poses[..., :3], scale * scene.poses[..., 3:]], dim=-1)
    loss = track_3d_loss(scale * scene.points, world_to_camera(poses), scene.focal, scene.observations)
    (actual,) = torch.autograd.grad(loss, scale)
    assert naive > 0.5
    assert actual.abs() < 1e-9


@pytest.mark.parametrize("loss", TRACK_LOSSES)
def test_observations_behind_the_camera_are_ignored(loss: Callable[..., Tensor]) -> None:
    scene = track_scene(num_views=2, num_points=4)
    points = scene.points.clone()
    points[0] = scene.poses[0, :, 3] + 0.5 * scene.poses[0, :, 2]  # behind the first camera
    points.requires_grad_()
    first = scene.observations.view_ids == 0
    observations = TrackObservations(*(field[first] for field in scene.observations))
    value = loss(points, world_to_camera(scene.poses), scene.focal, observations)
    (gradient,) = torch.autograd.grad(value, points)
    assert value < 1e-12
    assert torch.all(gradient[0] == 0)
    assert torch.isfinite(gradient).all()


def test_scale_loss_gradient_is_proportional_to_the_scale() -> None:
    log_scales = torch.log(torch.tensor([[0.1, 0.1, 0.1], [0.001, 0.001, 0.001]])).requires_grad_()
    (gradient,) = torch.autograd.grad(scale_loss(log_scales.exp()), log_scales)
    assert torch.all(gradient > 0)
    torch.testing.assert_close(gradient[0], 100 * gradient[1])


def test_photometric_loss_is_zero_for_equal_images_and_descends_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(24, 32, 3, generator=generator)
    assert photometric_loss(image, image, 0.2).abs() < 1e-6
    rendered = (image + 0.2 * torch.rand(image.shape, generator=generator)).requires_grad_()
    before = photometric_loss(rendered, image, 0.2)
    (gradient,) = torch.autograd.grad(before, rendered)
    assert photometric_loss(rendered - 10 * gradient, image, 0.2) < before


def test_ssim_lambda_weights_l1_and_ssim() -> None:
    image, rendered = torch.rand(2, 24, 32, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(photometric_loss(rendered, image, 0.0), (rendered - image).abs().mean())
    assert photometric_loss(rendered, image, 1.0) != photometric_loss(rendered, image, 0.0)


def test_masked_pixels_are_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(24, 32, 3, generator=generator)
    rendered = torch.rand(24, 32, 3, generator=generator).requires_grad_()
    mask = torch.zeros(24, 32, 1, dtype=torch.bool)
    mask[:, :16] = True
    (gradient,) = torch.autograd.grad(photometric_loss(rendered, image, 0.2, mask), rendered)
    assert torch.all(gradient[:, 16:] == 0)
    assert torch.any(gradient[:, :16] != 0)
