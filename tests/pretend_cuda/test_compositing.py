"""Exact and fast compositing of the stand-in agree if no splat is truncated at a tile."""

from __future__ import annotations

import pytest
import torch

from pretend_cuda.compositing import ExactCompositing, FastCompositing, Splats, TiledImage

CAMERAS, COUNT, CHANNELS, WIDTH, HEIGHT = 2, 40, 4, 30, 20


def random_splats() -> tuple[Splats, torch.Tensor]:
    """Sample splats and depths (C, N)."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(CAMERAS, COUNT, *shape, generator=generator)

    precisions = 0.02 + 0.2 * rand()
    conics = torch.stack([precisions, 0.3 * precisions, precisions], -1)
    centers = rand(2) * torch.tensor([WIDTH, HEIGHT])
    return Splats(centers, conics, rand(CHANNELS), 0.1 + 0.9 * rand()), rand()


@pytest.mark.parametrize("with_backgrounds", [False, True])
def test_exact_and_fast_agree(with_backgrounds: bool) -> None:
    splats, depths = random_splats()
    order = torch.argsort(depths, dim=1)
    image = TiledImage(
        width=WIDTH,
        height=HEIGHT,
        tile_size=max(WIDTH, HEIGHT),
        offsets=torch.tensor([0, COUNT], dtype=torch.int32).view(CAMERAS, 1, 1),
        flatten_ids=(order + COUNT * torch.arange(CAMERAS)[:, None]).flatten().int(),
        backgrounds=torch.rand(CAMERAS, CHANNELS) if with_backgrounds else None,
    )
    exact, fast = ExactCompositing(), FastCompositing()
    for expected, actual in zip(exact.forward(splats, image), fast.forward(splats, image), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)
    incoming = torch.randn(CAMERAS, HEIGHT, WIDTH, CHANNELS), torch.randn(CAMERAS, HEIGHT, WIDTH, 1)
    expected, actual = (method.backward(splats, image, *incoming) for method in (exact, fast))
    for name in expected._fields:
        expected_gradient, gradient = getattr(expected, name), getattr(actual, name)
        assert expected_gradient.abs().max() > 0
        assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm(), name
