"""CPU and CUDA draw the same images and hand back the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense_reference import Scene, random_loss, random_scene, relative_error

from nope_splat.splatting.rasterizer import fold_intrinsics, rasterization, ssim

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def mild_scene(seed: int, cameras: int = 1) -> Scene:
    """A scene without what gsplat cuts off beyond three standard deviations."""
    scene = random_scene(seed, count=200, width=96, height=64, cameras=cameras)
    return replace(scene, opacities=scene.opacities.clamp_max(0.3), scales=scene.scales.clamp_min(1e-3))


def on(scene: Scene, device: str) -> Scene:
    return replace(
        scene, **{k: v.detach().to(device).requires_grad_() for k, v in scene.parameters().items()}
    )


def rasterize(scene: Scene, Ks: torch.Tensor | None = None, **options):
    viewmats = scene.viewmats if Ks is None else fold_intrinsics(scene.viewmats, Ks)
    return rasterization(
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        scene.colors,
        viewmats,
        scene.Ks.detach(),
        scene.width,
        scene.height,
        backgrounds=scene.backgrounds,
        **options,
    )


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_images_and_gradients_agree(render_mode: str, rasterize_mode: str) -> None:
    scene = mild_scene(0, cameras=2)
    cpu, cuda = on(scene, "cpu"), on(scene, "cuda")
    results = []
    for copy in (cpu, cuda):
        images, alphas, info = rasterize(
            copy, render_mode=render_mode, rasterize_mode=rasterize_mode, absgrad=True
        )
        info["means2d"].retain_grad()
        weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
        ((weights * images).sum() + (alphas**2).sum()).backward()
        results.append((images, alphas, info))
    (images, alphas, info), (cuda_images, cuda_alphas, cuda_info) = results
    torch.testing.assert_close(images, cuda_images.cpu(), rtol=0, atol=2e-3)
    torch.testing.assert_close(alphas, cuda_alphas.cpu(), rtol=0, atol=2e-3)
    seen = info["radii"] > 0
    assert (info["radii"] - cuda_info["radii"].cpu()).abs().max() <= 1
    for gradient in ("grad", "absgrad"):
        actual, expected = (
            getattr(info["means2d"], gradient)[seen],
            getattr(cuda_info["means2d"], gradient).cpu()[seen],
        )
        assert relative_error(actual, expected) < 1e-2
    cuda_gradients = cuda.gradients()
    for name, gradient in cpu.gradients().items():
        if name != "Ks":
            assert relative_error(gradient, cuda_gradients[name].cpu()) < 1e-2, name


def test_spherical_harmonics_agree() -> None:
    scene = mild_scene(1)
    coefficients = torch.randn(200, 16, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    gradients = []
    for device in ("cpu", "cuda"):
        copy = on(replace(scene, colors=coefficients), device)
        images, alphas, _ = rasterize(copy, sh_degree=3)
        (images.square().sum() + alphas.sum()).backward()
        gradients.append({k: v.cpu() for k, v in copy.gradients().items()})
    for name in ("means", "colors", "viewmats"):
        assert relative_error(gradients[0][name], gradients[1][name]) < 1e-2, name


def test_folded_gradients_agree_with_those_of_the_intrinsics() -> None:
    scene = mild_scene(2)
    derivatives = []
    for device in ("cpu", "cuda"):
        copy = on(scene, device)
        Ks = scene.Ks.detach().to(device).requires_grad_()
        images, alphas, _ = rasterize(copy, Ks)
        random_loss(images.cpu(), alphas.cpu()).backward()
        assert Ks.grad is not None
        derivatives.append(Ks.grad[:, :2].cpu())
    direct = on(scene, "cpu")
    images, alphas, _ = rasterization(
        direct.means,
        direct.quats,
        direct.scales,
        direct.opacities,
        direct.colors,
        direct.viewmats,
        direct.Ks,
        scene.width,
        scene.height,
        backgrounds=direct.backgrounds,
    )
    random_loss(images, alphas).backward()
    assert direct.Ks.grad is not None
    expected = direct.Ks.grad[:, :2]
    assert relative_error(derivatives[0], expected) < 1e-4
    assert relative_error(derivatives[1], expected) < 1e-2


def test_similarity_agrees() -> None:
    g = torch.Generator().manual_seed(0)
    image, target = torch.rand(40, 50, 3, generator=g), torch.rand(40, 50, 3, generator=g)
    values, gradients = [], []
    for device in ("cpu", "cuda"):
        copy = image.to(device).requires_grad_()
        value = ssim(copy, target.to(device))
        value.backward()
        assert copy.grad is not None
        values.append(value.item())
        gradients.append(copy.grad.cpu())
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert relative_error(gradients[0], gradients[1]) < 1e-4
