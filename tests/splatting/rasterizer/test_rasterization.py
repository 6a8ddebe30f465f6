"""Images and gradients of the CPU rasterizer against a dense float64 reference."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
import torch
from fixtures.dense_reference import (
    PARAMETERS,
    Scene,
    project,
    random_loss,
    random_scene,
    relative_error,
    render,
)

from nope_splat.splatting.rasterizer import fold_intrinsics, rasterization
from nope_splat.splatting.rasterizer.rasterization import MAX_CHANNELS


def rasterize(scene: Scene, **options):
    return rasterization(
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        scene.colors,
        scene.viewmats,
        scene.Ks,
        scene.width,
        scene.height,
        **{"backgrounds": scene.backgrounds, **options},
    )


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
        else:
            assert actual.gradients()[name].norm() == 0, name


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_contain_difficult_cases(seed: int) -> None:
    scene = random_scene(seed)
    mean, depth, _, _, radius = project(scene, 0)
    (x, y), width, height = mean.T, scene.width, scene.height
    front = depth > 0.01
    centered = front & (x > 0) & (x < width) & (y > 0) & (y < height)
    reaching = front & (x + radius > 0) & (x - radius < width) & (y + radius > 0) & (y - radius < height)
    clamped = (x < -0.15 * width) | (x > 1.15 * width) | (y < -0.15 * height) | (y > 1.15 * height)
    largest = scene.scales.amax(1)
    alphas = render(scene)[1]
    cases = {
        "behind the camera": ~front,
        "across the border": reaching & ~centered,
        "outside": front & ~reaching,
        "beyond the clamped field of view": reaching & clamped,
        "far smaller than a pixel": reaching & (60 * largest < 0.01 * depth),
        "larger than the image": reaching & (6 * 60 * largest > width * depth),
        "opaque": alphas > 0.9995,
    }
    assert all(where.any() for where in cases.values()), cases


@pytest.mark.parametrize("seed", range(4))
def test_images_and_gradients_match_the_reference(seed: int) -> None:
    assert_matches_reference(random_scene(seed), {}, {})


@pytest.mark.parametrize("render_mode", ["D", "ED", "RGB+D", "RGB+ED"])
def test_depth_modes_match_the_reference(render_mode: str) -> None:
    scene = random_scene(5)
    assert_matches_reference(scene, {"render_mode": render_mode}, {"render_mode": render_mode})


def test_several_cameras_and_image_larger_than_a_tile() -> None:
    assert_matches_reference(random_scene(6, width=150, height=70, cameras=3), {}, {})


def test_antialiased_mode_matches_the_reference() -> None:
    scene = random_scene(7)
    scene = replace(scene, scales=scene.scales.clamp_min(1e-3))
    assert_matches_reference(scene, {"rasterize_mode": "antialiased"}, {"antialiased": True}, 1e-4)


def test_clipping_options_match_the_reference() -> None:
    options = {"near_plane": 2.5, "far_plane": 4.5, "radius_clip": 3.0, "eps2d": 0.1}
    reference = {"near": 2.5, "far": 4.5, "radius_clip": 3.0, "eps2d": 0.1}
    assert_matches_reference(random_scene(8), options, reference)


@pytest.mark.parametrize("channels", [1, MAX_CHANNELS])
def test_number_of_channels_matches_the_reference(channels: int) -> None:
    scene = random_scene(9)
    g = torch.Generator().manual_seed(9)
    colors, backgrounds = torch.rand(60, channels, generator=g), torch.rand(1, channels, generator=g)
    assert_matches_reference(replace(scene, colors=colors, backgrounds=backgrounds), {}, {})


def test_missing_gradients_are_equivalent_to_zeros() -> None:
    images_only, all_outputs = random_scene(3).leaves(), random_scene(3).leaves()
    (rasterize(images_only)[0] ** 2).sum().backward()
    images, alphas, info = rasterize(all_outputs)
    zero = 0.0 * (alphas.sum() + info["depths"].sum())
    ((images**2).sum() + zero).backward()
    for name, expected in all_outputs.gradients().items():
        assert relative_error(images_only.gradients()[name], expected) < 1e-6, name


def test_empty_scene_shows_the_background() -> None:
    scene = random_scene(0).leaves()
    empty = replace(
        scene, **{k: getattr(scene, k)[:0] for k in ("means", "quats", "scales", "opacities", "colors")}
    )
    images, alphas, info = rasterize(empty)
    images.sum().backward()
    assert torch.equal(images, scene.backgrounds[:, None, None].expand_as(images))
    assert not alphas.any()
    assert info["radii"].shape == (1, 0)


def test_zero_quaternion_is_the_identity_rotation() -> None:
    scene = random_scene(3)
    zero, identity = torch.zeros_like(scene.quats), torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(60, 4)
    torch.testing.assert_close(
        rasterize(replace(scene, quats=zero))[0], rasterize(replace(scene, quats=identity))[0]
    )


def test_unnormalized_quaternions_match_the_reference() -> None:
    scene = random_scene(3)
    lengths = torch.tensor([0.0, 1e-4, 1e4]).repeat(20)[:, None]
    scene = replace(scene, quats=lengths * scene.quats)
    assert_matches_reference(scene, {}, {})
    exact, actual = scene.leaves(torch.float64), scene.leaves()
    random_loss(*render(exact)).backward()
    random_loss(*rasterize(actual)[:2]).backward()
    gradient, expected = (leaves.gradients()["quats"].double() * lengths for leaves in (actual, exact))
    assert relative_error(gradient, expected) < 2e-5
    assert not actual.gradients()["quats"][::3].any()


def test_depth_has_no_gradient_to_colors() -> None:
    scene = random_scene(11).leaves()
    images, _, _ = rasterize(scene, render_mode="RGB+ED")
    images[..., 3].sum().backward()
    assert scene.colors.grad is not None
    assert not scene.colors.grad.any()
    assert scene.means.grad is not None
    assert scene.means.grad.any()


def test_absolute_gradients_are_sums_over_pixels_of_absolute_values() -> None:
    scene = random_scene(2, width=12, height=9).leaves()
    images, _, info = rasterize(scene, absgrad=True)
    weights = torch.rand(images.shape)
    expected = torch.zeros_like(info["means2d"])
    for y in range(9):
        for x in range(12):
            pixel = (weights * images)[0, y, x].sum()
            expected += torch.autograd.grad(pixel, info["means2d"], retain_graph=True)[0].abs()
    info["means2d"].retain_grad()
    (weights * images).sum().backward()
    torch.testing.assert_close(info["means2d"].absgrad, expected, rtol=1e-4, atol=1e-6)


def shared_intrinsics_loss(scene: Scene, intrinsics: torch.Tensor, fold: bool) -> torch.Tensor:
    """Compute a loss of the image with focal length and principal point `intrinsics` (3,)."""
    Ks = scene.Ks.to(intrinsics).clone()
    Ks[:, 0, 0] = Ks[:, 1, 1] = intrinsics[0]
    Ks[:, :2, 2] = intrinsics[1:]
    viewmats = scene.viewmats
    if fold:
        viewmats, Ks = fold_intrinsics(viewmats, Ks), Ks.detach()
    folded = replace(scene, viewmats=viewmats, Ks=Ks)
    if intrinsics.dtype == torch.float64:
        return random_loss(*render(folded))
    return random_loss(*rasterize(folded)[:2])


def test_folded_gradients_of_intrinsics_match_direct_ones_and_finite_differences() -> None:
    scene = random_scene(4)
    exact = replace(scene, **{k: v.double() for k, v in scene.parameters().items()})
    center = scene.Ks[0, :2, 2].tolist()
    intrinsics = torch.tensor([60.0, *center], dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(shared_intrinsics_loss(exact, intrinsics, fold=False), intrinsics)
    (folded,) = torch.autograd.grad(shared_intrinsics_loss(exact, intrinsics, fold=True), intrinsics)
    torch.testing.assert_close(folded, derivative, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        for step, expected in zip(1e-6 * torch.eye(3).double(), derivative.tolist(), strict=True):
            above, below = (
                shared_intrinsics_loss(exact, intrinsics + sign * step, False) for sign in (1, -1)
            )
            assert ((above - below) / 2e-6).item() == pytest.approx(expected, rel=1e-5)
    for fold in (False, True):
        single = intrinsics.detach().float().requires_grad_()
        (actual,) = torch.autograd.grad(shared_intrinsics_loss(scene, single, fold), single)
        torch.testing.assert_close(actual.double(), derivative, rtol=1e-4, atol=1e-4)


def test_frozen_gaussians_do_not_change_the_gradients_of_the_cameras() -> None:
    scene = random_scene(8, cameras=2)
    harmonics = 0.3 * torch.randn(len(scene.means), 16, 3, generator=torch.Generator().manual_seed(8))

    def gradients(frozen: bool, cameras: slice = slice(None)) -> tuple[Scene, torch.Tensor]:
        leaves, coefficients = scene.leaves(), harmonics.clone().requires_grad_(not frozen)
        for name in ("means", "quats", "scales", "opacities"):
            getattr(leaves, name).requires_grad_(not frozen)
        images, alphas, _ = rasterization(
            leaves.means, leaves.quats, leaves.scales, leaves.opacities, coefficients,
            leaves.viewmats[cameras], leaves.Ks[cameras], scene.width, scene.height, sh_degree=2,
        )  # fmt: skip
        (images.square().sum() + alphas.sum()).backward()
        return leaves, harmonics if coefficients.grad is None else coefficients.grad

    together, d_together = gradients(frozen=False)
    frozen, _ = gradients(frozen=True)
    for name in ("viewmats", "Ks"):
        assert torch.equal(together.gradients()[name], frozen.gradients()[name])
    assert frozen.gradients()["viewmats"].norm() > 0
    assert frozen.means.grad is None
    (first, d_first), (second, d_second) = (gradients(False, slice(k, k + 1)) for k in range(2))
    d_means = first.gradients()["means"] + second.gradients()["means"]
    assert relative_error(together.gradients()["means"], d_means) < 1e-6
    assert relative_error(d_together, d_first + d_second) < 1e-6
    assert d_together[:, 9:].norm() == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_memory_is_as_documented(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nope_splat.splatting.rasterizer.threads._thread_count", threads)
    scene = random_scene(1, count=20_000, width=320, height=192).leaves()
    d_images = torch.ones(1, 192, 320, 3)
    rasterize(scene)[0].backward(d_images)  # exclude compilation and imports from the measurement
    tracemalloc.start()
    images, _, _ = rasterize(scene)
    (lists, *_), *_ = images.grad_fn.tiles  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    images.backward(d_images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    documented = 88 * 20_000 + 12 * 192 * 320 + 72 * lists.tile_offsets[-1]
    assert 0.9 * documented < peak < 1.1 * documented  # includes other threads of the process


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_with_nan_or_infinity_are_named(name: str, value: float) -> None:
    scene = random_scene(0)
    broken = getattr(scene, name).clone()
    broken.view(-1)[-1] = value
    with pytest.raises(ValueError, match=rf"^{name} contains NaN"):
        rasterize(replace(scene, **{name: broken}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packed": True}, "packed"),
        ({"sparse_grad": True}, "sparse_grad"),
        ({"distributed": True}, "distributed"),
        ({"render_mode": "normals"}, "render_mode"),
        ({"rasterize_mode": "fast"}, "rasterize_mode"),
        ({"camera_model": "ortho"}, "camera_model"),
        ({"sh_degree": 1}, "colors"),
        ({"backgrounds": torch.zeros(2, 3)}, "backgrounds"),
    ],
)
def test_unavailable_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterize(random_scene(0), **options)


@pytest.mark.parametrize(("channels", "render_mode"), [(MAX_CHANNELS + 1, "RGB"), (MAX_CHANNELS, "RGB+D")])
def test_too_many_channels_are_refused(channels: int, render_mode: str) -> None:
    scene = replace(random_scene(0), colors=torch.zeros(60, channels), backgrounds=torch.zeros(1, channels))
    with pytest.raises(ValueError, match="at most 16 channels"):
        rasterize(scene, render_mode=render_mode)
