"""Structural similarity against pytorch_msssim, and its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
from fixtures.dense_reference import relative_error
from pytorch_msssim import ssim as reference_ssim

from nope_splat.splatting.rasterizer import ssim


def image_pair(height: int, width: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(height)
    image = torch.rand(height, width, channels, generator=g)
    return image, 0.6 * image + 0.4 * torch.rand(height, width, channels, generator=g)


@pytest.mark.parametrize(("height", "width", "channels"), [(40, 57, 3), (11, 11, 3), (12, 30, 1)])
def test_value_and_gradient_match_pytorch_msssim(height: int, width: int, channels: int) -> None:
    image, target = image_pair(height, width, channels)
    exact = image.double().requires_grad_()
    planes = [tensor.permute(2, 0, 1)[None] for tensor in (exact, target.double())]
    expected = reference_ssim(planes[0], planes[1], data_range=1.0)
    expected.backward()
    image.requires_grad_()
    actual = ssim(image, target)
    (3 * actual).backward()
    assert actual.item() == pytest.approx(expected.item(), abs=1e-6)
    assert image.grad is not None
    assert exact.grad is not None
    assert relative_error(image.grad, 3 * exact.grad) < 1e-5


def test_equal_images_have_similarity_one_and_no_gradient() -> None:
    image = image_pair(20, 20)[0].requires_grad_()
    value = ssim(image, image.detach())
    value.backward()
    assert value.item() == pytest.approx(1.0, abs=1e-6)
    assert image.grad is not None
    assert image.grad.abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(10, 20, 3), (20, 20), (1, 3, 20, 20)])
def test_invalid_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(shape), torch.zeros(shape))
