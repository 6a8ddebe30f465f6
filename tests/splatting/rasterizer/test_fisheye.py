"""The fisheye camera model of the CPU rasterizer: values, gradients and properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.dense_reference import (
    Scene,
    project,
    random_fisheye_scene,
    random_loss,
    random_scene,
    relative_error,
    render,
)
from torch import Tensor

from nope_splat.splatting.rasterizer import rasterization
from nope_splat.splatting.rasterizer.fisheye import SERIES_LIMIT, angle_ratio

FIELDS_OF_VIEW = (90.0, 150.0, 175.0)


def rasterize(scene: Scene, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    return rasterization(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, scene.viewmats, scene.Ks,
        scene.width, scene.height,
        **{"backgrounds": scene.backgrounds, "camera_model": scene.camera_model, **options},
    )  # fmt: skip


def small_splats(means: Tensor, focal: float, size: int = 64, camera_model: Any = "fisheye") -> Scene:
    """Create spherical Gaussians at given means (N, 3), and a camera at the origin with a square image."""
    count = len(means)
    K = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return Scene(
        means=means,
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        scales=torch.full((count, 3), 0.1),
        opacities=torch.full((count,), 0.8),
        colors=torch.rand(count, 3, generator=torch.Generator().manual_seed(0)),
        viewmats=torch.eye(4)[None],
        Ks=K[None],
        backgrounds=torch.zeros(1, 3),
        width=size,
        height=size,
        camera_model=camera_model,
    )


def gradients(scene: Scene) -> dict[str, Tensor]:
    leaves = scene.leaves()
    random_loss(*rasterize(leaves)[:2]).backward()
    return leaves.gradients()


def assert_matches_reference(scene: Scene, options: dict, reference_options: dict, tolerance=2e-5) -> None:
    """Compare images and all gradients with the dense reference."""
    exact, actual = scene.leaves(torch.float64), scene.leaves()
    expected_images, expected_alphas = render(exact, **reference_options)
    random_loss(expected_images, expected_alphas).backward()
    images, alphas, _ = rasterize(actual, **options)
    random_loss(images, alphas).backward()
    scale = expected_images.abs().max().item()
    torch.testing.assert_close(images.double(), expected_images, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(alphas.double(), expected_alphas, rtol=0, atol=1e-5)
    for name, expected in exact.gradients().items():
        if expected.norm() > 0:
            assert relative_error(actual.gradients()[name], expected) < tolerance, name


@pytest.mark.parametrize("field_of_view", FIELDS_OF_VIEW)
def test_random_scenes_contain_difficult_cases(field_of_view: float) -> None:
    scene = random_fisheye_scene(0, field_of_view)
    (x, y), depth, _, _, radius = project(scene, 0)[0].T, *project(scene, 0)[1:]
    front, width, height = depth > 0.01, scene.width, scene.height
    centered = front & (x > 0) & (x < width) & (y > 0) & (y < height)
    reaching = front & (x + radius > 0) & (x - radius < width) & (y + radius > 0) & (y - radius < height)
    angle = torch.atan2((scene.means[:, :2]).norm(dim=1), scene.means[:, 2])
    assert (~front).any()
    assert (reaching & ~centered).any()
    assert angle[centered].max() > 0.8 * math.radians(field_of_view / 2)
    assert angle[centered].min() < math.radians(4)
    assert render(scene)[1].amax() > 0.9995


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("field_of_view", FIELDS_OF_VIEW)
def test_images_and_gradients_match_the_reference(field_of_view: float, seed: int) -> None:
    assert_matches_reference(random_fisheye_scene(seed, field_of_view), {}, {})


@pytest.mark.parametrize("render_mode", ["D", "RGB+ED"])
def test_depth_modes_match_the_reference(render_mode: str) -> None:
    scene = random_fisheye_scene(5, 150.0)
    assert_matches_reference(scene, {"render_mode": render_mode}, {"render_mode": render_mode})


def test_antialiased_mode_matches_the_reference() -> None:
    scene = random_fisheye_scene(7, 150.0)
    scene = replace(scene, scales=scene.scales.clamp_min(1e-3))
    assert_matches_reference(scene, {"rasterize_mode": "antialiased"}, {"antialiased": True}, 1e-4)


def test_several_cameras_and_clipping_match_the_reference() -> None:
    scene = random_fisheye_scene(6, 130.0, width=150, height=70, cameras=3)
    options = {"near_plane": 1.5, "far_plane": 4.5, "radius_clip": 2.0, "eps2d": 0.1}
    reference = {"near": 1.5, "far": 4.5, "radius_clip": 2.0, "eps2d": 0.1}
    assert_matches_reference(scene, options, reference)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "viewmats", "Ks"])
def test_gradients_match_finite_differences(name: str) -> None:
    scene = random_fisheye_scene(4, 150.0)
    exact = replace(scene, **{k: v.double() for k, v in scene.parameters().items()})
    values = getattr(exact, name)
    direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(4)).double()
    if name == "Ks":
        direction *= torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    if name == "viewmats":
        direction[:, 3] = 0.0
    derivative = (gradients(scene)[name].double() * direction).sum().item()
    step = 1e-7 * direction
    above, below = (
        random_loss(*render(replace(exact, **{name: values + sign * step}))).item() for sign in (1, -1)
    )
    assert (above - below) / 2e-7 == pytest.approx(derivative, rel=1e-4)


@pytest.mark.parametrize("z", [0.01, 1.7, 300.0])
def test_angle_ratio_and_its_derivatives_match_integrals_without_cancellation(z: float) -> None:
    """Test against theta / r = integral of z / (z^2 + t^2 r^2) over t from 0 to 1."""
    limit = math.sqrt(SERIES_LIMIT)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t2, weights = ((nodes + 1) / 2) ** 2, weights / 2
    for ratio in (0.0, 1e-30, 1e-8, 0.03, 0.999 * limit, 1.001 * limit, 0.3, 1.0):
        x, y = 0.6 * ratio * z, -0.8 * ratio * z
        denominator = z * z + t2 * (x * x + y * y)
        expected = [
            weights @ (z / denominator),
            weights @ (-2 * t2 * z / denominator**2),
            weights @ (8 * t2**2 * z / denominator**3),
            1 / (x * x + y * y + z * z),
        ]
        assert angle_ratio(x, y, z) == pytest.approx(expected, rel=1e-10), ratio


def test_gaussian_on_the_optical_axis_is_that_of_a_pinhole_camera() -> None:
    """On the axis, both projections have the same values and first and second derivatives."""
    g = torch.Generator().manual_seed(1)
    scene = small_splats(torch.tensor([[0.0, 0.0, 1.5], [0.0, 0.0, 2.0]]), focal=40.0)
    scales, quats = 0.1 + 0.3 * torch.rand(2, 3, generator=g), torch.randn(2, 4, generator=g)
    scene = replace(scene, scales=scales, quats=quats)
    pinhole = replace(scene, camera_model="pinhole")
    torch.testing.assert_close(rasterize(scene)[0], rasterize(pinhole)[0], rtol=0, atol=1e-6)
    expected = gradients(pinhole)
    for name, gradient in gradients(scene).items():
        assert gradient.isfinite().all()
        if expected[name].norm() > 0:
            assert relative_error(gradient, expected[name]) < 1e-5, name


def test_images_change_continuously_near_the_axis() -> None:
    on_axis = small_splats(torch.tensor([[0.0, 0.0, 2.0]]), focal=40.0)
    image, d_means = rasterize(on_axis)[0], gradients(on_axis)["means"]
    for offset in (1e-30, 1e-20, 1e-10, 1e-6):
        moved = replace(on_axis, means=torch.tensor([[offset, -offset, 2.0]]))
        torch.testing.assert_close(rasterize(moved)[0], image, rtol=0, atol=1e-4)
        torch.testing.assert_close(gradients(moved)["means"], d_means, rtol=1e-3, atol=1e-3)


def test_narrow_field_of_view_tends_to_the_pinhole_image() -> None:
    scene = random_scene(3)
    means = torch.cat([scene.means[:, :2].clamp(-0.7, 0.7), scene.means[:, 2:]], 1)
    scales = scene.scales.clamp_max(0.2)  # small along the optical axis, too
    errors = []
    for zoom in (1.0, 10.0, 100.0):
        shrink = torch.tensor([1 / zoom, 1 / zoom, 1.0])
        narrow = replace(scene, means=means * shrink, scales=scales / zoom, viewmats=torch.eye(4)[None])
        narrow = replace(narrow, Ks=scene.Ks @ torch.tensor([zoom, zoom, 1.0]).diag())
        fisheye, pinhole = (rasterize(narrow, camera_model=model)[2] for model in ("fisheye", "pinhole"))
        visible = (fisheye["radii"] > 0) & (pinhole["radii"] > 0)
        assert visible.sum() > 20
        errors.append((fisheye["means2d"] - pinhole["means2d"])[visible].abs().max().item())
    assert errors[0] > 0.5
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.2), "the error is quadratic in the angle"
    images = [rasterize(narrow, camera_model=model)[0] for model in ("fisheye", "pinhole")]
    assert (images[0] - images[1]).abs().max() < 2e-3


@pytest.mark.parametrize("field_of_view", FIELDS_OF_VIEW)
def test_distance_from_the_principal_point_is_proportional_to_the_angle(field_of_view: float) -> None:
    size, half = 200, math.radians(field_of_view / 2)
    focal = size / 2 / half
    angles = half * torch.linspace(-0.999, 0.999, 41)
    means = 3 * torch.stack([angles.sin(), torch.zeros(41), angles.cos()], -1)
    info = rasterize(small_splats(means, focal, size))[2]
    assert (info["radii"] > 0).all()
    torch.testing.assert_close(info["means2d"][0, :, 0], size / 2 + focal * angles, rtol=0, atol=1e-4)
    torch.testing.assert_close(info["means2d"][0, :, 1], torch.full((41,), size / 2), rtol=0, atol=1e-4)


def test_sphere_of_equal_splats_has_equal_widths_along_the_radius() -> None:
    """The standard deviation of a splat along the radius is f s / distance at every angle."""
    focal, angles = 60.0, torch.linspace(0.0, math.radians(87), 30)
    means = 3 * torch.stack([angles.sin(), torch.zeros(30), angles.cos()], -1)
    conics = rasterize(small_splats(means, focal, 200), eps2d=0.0)[2]["conics"][0]
    torch.testing.assert_close(conics[:, 0], torch.full((30,), (3 / (0.1 * focal)) ** 2), rtol=1e-4, atol=0)
    tangential = (angles.sin() / angles).nan_to_num(1.0) * 3 / (0.1 * focal)
    torch.testing.assert_close(conics[:, 2], tangential**2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("field_of_view", FIELDS_OF_VIEW)
def test_rotating_the_camera_about_its_optical_axis_rotates_the_image(field_of_view: float) -> None:
    scene = random_fisheye_scene(2, field_of_view, width=60, height=60)
    focal = 60 / math.radians(field_of_view)
    K = torch.tensor([[focal, 0.0, 30.0], [0.0, focal, 30.0], [0.0, 0.0, 1.0]])
    turn = torch.tensor(
        [[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )
    upright = replace(scene, Ks=K[None])
    turned = replace(upright, viewmats=turn @ scene.viewmats)
    expected = rasterize(upright)[0].rot90(-1, (1, 2))  # x to y, y to -x: clockwise in the image
    difference = (rasterize(turned)[0] - expected).abs()
    assert difference.max() < 0.02, "splats at the visibility threshold"
    assert (difference > 1e-4).float().mean() < 2e-3


def test_gaussians_behind_the_near_plane_are_culled() -> None:
    depths = torch.tensor([-2.0, -0.1, 0.0, 0.005, 0.02, 0.5])
    scene = small_splats(torch.stack([torch.full((6,), 0.5), torch.zeros(6), depths], -1), 20.0).leaves()
    images, alphas, info = rasterize(scene, near_plane=0.01)
    random_loss(images, alphas).backward()
    assert (info["radii"][0] > 0).tolist() == [False] * 4 + [True] * 2
    assert all(gradient.isfinite().all() for gradient in scene.gradients().values())
    assert not scene.gradients()["means"][:4].any()
    assert scene.gradients()["means"][4:].all(1).any()


def test_zero_near_plane_excludes_the_image_plane() -> None:
    means = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 1e-6]])
    scene = small_splats(means, 20.0).leaves()
    images, alphas, info = rasterize(scene, near_plane=0.0)
    random_loss(images, alphas).backward()
    assert (info["radii"][0] > 0).tolist() == [False, False, True]
    assert info["means2d"][0, 2, 0].item() == pytest.approx(32 + 20 * math.pi / 2, abs=1e-3)
    assert all(gradient.isfinite().all() for gradient in scene.gradients().values())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_orthographic_cameras_are_refused(device: str) -> None:
    scene = random_scene(0)
    with pytest.raises(ValueError, match=r"camera_model must be pinhole or fisheye, not ortho"):
        rasterize(replace(scene, means=scene.means.to(device)), camera_model="ortho")
