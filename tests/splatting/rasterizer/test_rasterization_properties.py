"""Invariances of the rasterizer, on random scenes."""

from __future__ import annotations

from dataclasses import replace

import torch
from fixtures.dense_reference import Scene, random_loss, random_scene, relative_error, rotation_matrices
from hypothesis import given, settings
from hypothesis import strategies as st

from nope_splat.splatting.rasterizer import fold_intrinsics, rasterization

seeds = st.integers(0, 2**31)
few_examples = settings(max_examples=20, deadline=None)


def rasterize(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    images, alphas, _ = rasterization(
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        scene.colors,
        scene.viewmats,
        scene.Ks,
        scene.width,
        scene.height,
        backgrounds=scene.backgrounds,
    )
    return images, alphas


def assert_equal_up_to_rounding(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Check equality up to float32, except in pixels where a splat is at the visibility threshold."""
    difference = (actual - expected).abs()
    assert difference.max() < 0.02
    assert (difference > 1e-4).float().mean() < 2e-3


@few_examples
@given(seeds)
def test_order_of_gaussians_does_not_matter(seed: int) -> None:
    scene = random_scene(seed)
    permutation = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    names = ("means", "quats", "scales", "opacities", "colors")
    first, second = (
        scene.leaves(),
        replace(scene, **{name: getattr(scene, name)[permutation] for name in names}).leaves(),
    )
    images, shuffled_images = rasterize(first), rasterize(second)
    random_loss(*images).backward()
    random_loss(*shuffled_images).backward()
    assert torch.equal(images[0], shuffled_images[0])
    for name in names:
        assert torch.equal(first.gradients()[name][permutation], second.gradients()[name])


@few_examples
@given(seeds)
def test_rigid_motion_of_world_and_cameras_does_not_matter(seed: int) -> None:
    scene = random_scene(seed)
    g = torch.Generator().manual_seed(seed)
    quat = torch.nn.functional.normalize(torch.randn(4, generator=g), dim=0)
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation_matrices(quat[None])[0], torch.randn(3, generator=g)
    w, x, y, z = quat
    left_product = torch.stack(
        [torch.stack(row) for row in ((w, -x, -y, -z), (x, w, -z, y), (y, z, w, -x), (z, -y, x, w))]
    )
    moved = replace(
        scene,
        means=scene.means @ motion[:3, :3].T + motion[:3, 3],
        quats=scene.quats @ left_product.T,
        viewmats=scene.viewmats @ torch.linalg.inv(motion),
    )
    assert_equal_up_to_rounding(rasterize(moved)[0], rasterize(scene)[0])


@few_examples
@given(seeds)
def test_larger_image_contains_the_smaller_one(seed: int) -> None:
    scene = random_scene(seed)
    scene = replace(  # inside the clamped field of view, and without splats that are culled at the border
        scene,
        means=torch.cat([scene.means[:, :2].clamp(-0.8, 0.8), scene.means[:, 2:]], 1),
        scales=scene.scales.clamp_max(0.05),
        opacities=scene.opacities.clamp_max(0.3),
    )
    Ks = scene.Ks.clone()
    Ks[:, 0, 2] += 13
    Ks[:, 1, 2] += 29
    larger = replace(scene, Ks=Ks, width=scene.width + 26, height=scene.height + 58)
    window = rasterize(larger)[0][:, 29 : 29 + scene.height, 13 : 13 + scene.width]
    assert_equal_up_to_rounding(window, rasterize(scene)[0])


@few_examples
@given(seeds, st.floats(0.8, 1.25))
def test_folded_gradients_of_intrinsics_match_direct_ones(seed: int, zoom: float) -> None:
    scene = random_scene(seed)
    Ks = scene.Ks.clone()
    Ks[:, :2, :2] *= zoom
    direct = replace(scene, Ks=Ks).leaves()
    random_loss(*rasterize(direct)).backward()
    assert direct.Ks.grad is not None
    expected = (direct.Ks.grad[:, [0, 1], [0, 1]] * Ks[:, [0, 1], [0, 1]]).sum()  # d / d log(focal)
    folded = Ks.clone().requires_grad_()
    viewmats = fold_intrinsics(scene.viewmats, folded)
    random_loss(*rasterize(replace(scene, Ks=Ks, viewmats=viewmats))).backward()
    assert folded.grad is not None
    actual = (folded.grad[:, [0, 1], [0, 1]] * Ks[:, [0, 1], [0, 1]]).sum()
    assert relative_error(actual, expected) < 1e-3 or (actual - expected).abs() < 1e-2
    centers = folded.grad[:, :2, 2], direct.Ks.grad[:, :2, 2]
    assert relative_error(*centers) < 1e-3 or (centers[0] - centers[1]).abs().max() < 1e-2
