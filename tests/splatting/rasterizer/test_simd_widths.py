"""All SIMD widths give the same images and gradients."""

from __future__ import annotations

import pytest
import torch
from fixtures.dense_reference import random_loss, random_scene, relative_error, render

from nope_splat.splatting.rasterizer import autograd, rasterization
from nope_splat.splatting.rasterizer.simd import Lanes


@pytest.mark.parametrize("count", [4, 8, 16])
def test_width_matches_the_reference(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autograd, "LANES", Lanes(count))
    scene = random_scene(21, width=90, height=67)
    exact, actual = scene.leaves(torch.float64), scene.leaves()
    expected, expected_alphas = render(exact)
    random_loss(expected, expected_alphas).backward()
    images, alphas, _ = rasterization(
        actual.means,
        actual.quats,
        actual.scales,
        actual.opacities,
        actual.colors,
        actual.viewmats,
        actual.Ks,
        scene.width,
        scene.height,
        backgrounds=actual.backgrounds,
    )
    random_loss(images, alphas).backward()
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-5)
    for name, gradient in exact.gradients().items():
        assert relative_error(actual.gradients()[name], gradient) < 2e-5, name


def test_host_has_a_supported_width() -> None:
    assert Lanes.for_host().count in (4, 8, 16)


def test_unsupported_width_is_refused() -> None:
    with pytest.raises(ValueError, match="4, 8 or 16"):
        Lanes(32)
