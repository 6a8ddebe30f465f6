"""Rendering with distortion.

- Distortion and its inverse agree with the numpy camera model and undo each other.
- Gradients of the inverse, the sampling positions and the resampled colors agree with finite differences.
- Zero distortion changes nothing; otherwise the image of a distorted camera is reproduced up to its border.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.dense_reference import random_loss, random_scene, render
from torch import Tensor

from nope_splat.geometry.distortion import distort, undistort
from nope_splat.splatting.lens import (
    DistortionConfig,
    Rendering,
    ideal_positions,
    render_distorted,
    resample,
)
from nope_splat.splatting.rasterizer import fold_intrinsics

SIZE = (48, 36)
BARREL, PINCUSHION = (-0.12, 0.03, 0.01, 0.0, 0.002, -0.003), (0.1, 0.05, 0.0, 0.0, 0.0, 0.0)
STRAIGHT = (0.0,) * 6


def intrinsics(dtype: torch.dtype = torch.float64) -> Tensor:
    """Make an intrinsic matrix with an off-center principal point. (1, 3, 3)."""
    return torch.tensor([[[50.0, 0, 25.5], [0, 51.0, 17.0], [0, 0, 1]]], dtype=dtype)


def points(count: int = 50) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5


@pytest.mark.parametrize("distortion", [BARREL, PINCUSHION, STRAIGHT])
def test_distortion_and_its_inverse_match_the_numpy_camera_model(distortion: tuple[float, ...]) -> None:
    plane, terms = points(), torch.tensor(distortion, dtype=torch.float64)
    np.testing.assert_allclose(distort(plane, terms), distort(plane.numpy(), distortion), atol=1e-15)
    np.testing.assert_allclose(undistort(plane, terms), undistort(plane.numpy(), distortion), atol=1e-12)
    torch.testing.assert_close(undistort(distort(plane, terms), terms), plane)


@pytest.mark.parametrize("distortion", [BARREL, PINCUSHION, STRAIGHT])
def test_gradients_match_finite_differences(distortion: tuple[float, ...]) -> None:
    terms = torch.tensor(distortion, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(undistort, (points(10).requires_grad_(), terms))
    K = intrinsics()[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: ideal_positions(args[0], (6, 5), args[1]), (K, terms))
    image = torch.rand(12, 14, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    positions = 11 * points(20).reshape(4, 5, 2) + torch.tensor([7.01, 6.02])
    assert torch.autograd.gradcheck(resample, (image.requires_grad_(), positions.requires_grad_()))


def waves(pixels: Tensor) -> Tensor:
    """Color the plane at depth one smoothly. (..., 2) -> (..., 3)."""
    x, y = pixels.unbind(-1)
    return 0.5 + 0.3 * torch.stack([torch.sin(9 * x), torch.cos(8 * y), torch.sin(6 * (x + y))], -1)


def pinhole(K: Tensor, size: tuple[int, int]) -> Rendering:
    """Render `waves` by a pinhole camera. Depth is 2 + x."""
    columns, rows = (torch.arange(side, dtype=K.dtype) + 0.5 for side in size)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    plane = (pixels - K[0, :2, 2]) / K[0, [0, 1], [0, 1]]
    return Rendering(waves(plane), 2 + plane[..., :1], torch.ones_like(plane[..., :1]), {"size": size})


@pytest.mark.parametrize("distortion", [BARREL, PINCUSHION])
def test_distorted_image_is_reproduced_up_to_its_border(distortion: tuple[float, ...]) -> None:
    K, terms = intrinsics(), torch.tensor(distortion, dtype=torch.float64)
    rendering = render_distorted(pinhole, K, SIZE, terms)
    columns, rows = (torch.arange(side, dtype=torch.float64) + 0.5 for side in SIZE)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    plane = undistort((pixels - K[0, :2, 2]) / K[0, [0, 1], [0, 1]], terms)
    assert (rendering.rgb - waves(plane)).abs().max() < 5e-3
    torch.testing.assert_close(rendering.depth, 2 + plane[..., :1])
    assert rendering.opacity.shape == (*SIZE[::-1], 1)
    width, height = rendering.info["size"]
    assert (width - SIZE[0], height - SIZE[1]) >= (0, 0)
    assert width > SIZE[0] + 2 or distortion is PINCUSHION


def test_zero_distortion_changes_nothing() -> None:
    K = intrinsics()
    assert torch.equal(render_distorted(pinhole, K, SIZE, None).rgb, pinhole(K, SIZE).rgb)
    learned = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(render_distorted(pinhole, K, SIZE, learned).rgb, pinhole(K, SIZE).rgb)


@pytest.mark.parametrize("distortion", [None, BARREL])
def test_positions_in_a_fixed_image_carry_the_gradient_of_intrinsics(
    distortion: tuple[float, ...] | None,
) -> None:
    """The image is unchanged, and its derivatives are those of images rendered with other intrinsics."""
    K = intrinsics().requires_grad_()
    terms = None if distortion is None else torch.tensor(distortion, dtype=torch.float64)
    fixed = render_distorted(pinhole, K, SIZE, terms, is_fixed=True)
    assert torch.equal(fixed.rgb, render_distorted(pinhole, K.detach(), SIZE, terms).rgb)
    weights = torch.linspace(-1, 1, fixed.rgb.numel(), dtype=torch.float64).view_as(fixed.rgb)[2:-2, 2:-2]
    (gradient,) = torch.autograd.grad((weights * fixed.rgb[2:-2, 2:-2]).sum(), K)
    for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)):
        losses = []
        for step in (1e-3, -1e-3):
            moved = intrinsics()
            moved[0, row, column] += step
            losses.append((weights * render_distorted(pinhole, moved, SIZE, terms).rgb[2:-2, 2:-2]).sum())
        slope = float(losses[0] - losses[1]) / 2e-3
        # Bicubic interpolation has inaccurate derivatives between pixels.
        tolerance = 0.02 if distortion is None else 0.2
        assert abs(float(gradient[0, row, column]) - slope) < tolerance * float(gradient.abs().max())


def test_margin_is_bounded_for_any_distortion() -> None:
    rendering = render_distorted(
        pinhole, intrinsics(), SIZE, torch.tensor([-3.0, 0.5, 0, 0, 0, 0], dtype=torch.float64)
    )
    assert max(rendering.info["size"]) <= (1 + 2 * DistortionConfig().max_margin) * SIZE[0]
    assert rendering.rgb.isfinite().all()


def test_gradients_of_intrinsics_through_rasterizer_and_distortion_match_finite_differences() -> None:
    """Each intrinsic changes the pinhole image, the positions at which it is sampled, or both."""
    scene = random_scene(4)
    scene = replace(scene, **{name: value.double() for name, value in scene.parameters().items()})
    size = scene.width, scene.height

    def loss(values: Tensor) -> Tensor:
        K = torch.eye(3).double()[None].repeat(1, 1, 1)
        K[:, 0, 0] = K[:, 1, 1] = values[0]
        K[:, :2, 2] = values[1:3]

        def rasterize(detached: Tensor, size: tuple[int, int]) -> Rendering:
            folded = replace(scene, viewmats=fold_intrinsics(scene.viewmats, K), Ks=detached)
            images, alphas = render(replace(folded, width=size[0], height=size[1]))
            return Rendering(images[0].clamp(0, 1), images[0, ..., :0], alphas[0], {})

        return random_loss(render_distorted(rasterize, K, size, values[3:]).rgb, torch.zeros(()))

    start = [60.0, *scene.Ks[0, :2, 2].tolist(), -0.1, 0.02, 0.01, -0.01, 0.003, -0.002]
    values = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(values), values)
    with torch.no_grad():
        for step, expected in zip(1e-6 * torch.eye(9).double(), gradient.tolist(), strict=True):
            slope = (loss(values + step) - loss(values - step)) / 2e-6
            assert slope.item() == pytest.approx(expected, rel=1e-4)
