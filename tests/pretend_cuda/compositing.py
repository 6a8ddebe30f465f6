"""Compositing for the stand-in of gsplat's kernels, with gsplat's truncation of splats or faster.

All tensors are ordinary CPU tensors. The splats of all C cameras have consecutive indices: camera times N
plus Gaussian, as in gsplat's `flatten_ids`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.splatting.rasterizer.autograd import Compositing

MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE = 0.999, 1 / 255, 1e-4
"""Limits of gsplat's kernels: largest and smallest alpha of a splat at a pixel, smallest transmittance."""


class Splats(NamedTuple):
    """Splats to composite."""

    means2d: Tensor
    """Centers in pixels. (C, N, 2)."""
    conics: Tensor
    """Inverse covariances a, b, c. (C, N, 3)."""
    colors: Tensor
    """Color channels. (C, N, D)."""
    opacities: Tensor
    """Opacities. (C, N)."""


class TiledImage(NamedTuple):
    """Image to composite into, with tile size, and the depth-sorted splats of its tiles."""

    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    tile_size: int
    """Side of a tile in pixels."""
    offsets: Tensor
    """Start of the list of each tile. (C, tiles high, tiles wide)."""
    flatten_ids: Tensor
    """Splat indices of all tiles, front to back in each. (intersections,)."""
    backgrounds: Tensor | None
    """Background colors. (C, D)."""


class Gradients(NamedTuple):
    """Gradients of the splats."""

    means2d_abs: Tensor
    """Sum over pixels of the absolute gradient of the centers. (C, N, 2)."""
    means2d: Tensor
    """Gradient of the centers. (C, N, 2)."""
    conics: Tensor
    """Gradient of the conics. (C, N, 3)."""
    colors: Tensor
    """Gradient of the colors. (C, N, D)."""
    opacities: Tensor
    """Gradient of the opacities. (C, N)."""


class ExactCompositing:
    """Compositing tile by tile, with each splat truncated to the tiles that list it, as in gsplat."""

    one_tile_per_image = False

    def forward(self, splats: Splats, image: TiledImage) -> tuple[Tensor, Tensor]:
        """Composite images (C, H, W, D) and alphas (C, H, W, 1)."""
        cameras, channels = len(splats.colors), splats.colors.shape[-1]
        images = torch.zeros(cameras, image.height, image.width, channels)
        alphas = torch.zeros(cameras, image.height, image.width, 1)
        for camera, rows, columns, ids in _tiles(image):
            centers, conics, colors, opacities = (_flatten(values)[ids] for values in splats)
            color, alpha = _composite(
                _at_pixels(centers, rows, columns), conics, colors, opacities, _pixels(rows, columns)
            )
            if image.backgrounds is not None:
                color = color + (1 - alpha) * image.backgrounds[camera]
            shape = len(rows), len(columns), -1
            images[camera, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = color.reshape(shape)
            alphas[camera, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = alpha.reshape(shape)
        return images, alphas

    def backward(self, splats: Splats, image: TiledImage, d_images: Tensor, d_alphas: Tensor) -> Gradients:
        """Compute gradients of the splats from those of images (C, H, W, D) and alphas (C, H, W, 1)."""
        means2d_abs = torch.zeros_like(splats.means2d)
        totals = Splats(*(torch.zeros_like(values) for values in splats))
        for camera, rows, columns, ids in _tiles(image):
            centers, conics, colors, opacities = (_flatten(values)[ids].detach() for values in splats)
            leaves = _at_pixels(centers, rows, columns), conics, colors, opacities
            for leaf in leaves:
                leaf.requires_grad_()
            color, alpha = _composite(*leaves, _pixels(rows, columns))
            if image.backgrounds is not None:
                color = color + (1 - alpha) * image.backgrounds[camera]
            part = camera, slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            d_centers, *d_others = torch.autograd.grad(
                [color, alpha],
                leaves,
                [d_images[part].reshape_as(color), d_alphas[part].reshape_as(alpha)],
                allow_unused=True,
            )
            _flatten(means2d_abs).index_add_(0, ids, d_centers.abs().sum(1))
            for total, gradient in zip(totals, (d_centers.sum(1), *d_others), strict=True):
                _flatten(total).index_add_(0, ids, gradient)
        return Gradients(means2d_abs, *totals)


class FastCompositing:
    """Compositing by the CPU rasterizer, down to an alpha of 1/255, with the image as one tile."""

    one_tile_per_image = True

    def forward(self, splats: Splats, image: TiledImage) -> tuple[Tensor, Tensor]:
        """Composite images (C, H, W, D) and alphas (C, H, W, 1)."""
        with torch.no_grad():
            _, images, alphas = self._composite(splats, image)
        return images, alphas

    def backward(self, splats: Splats, image: TiledImage, d_images: Tensor, d_alphas: Tensor) -> Gradients:
        """Compute gradients of the splats from those of images (C, H, W, D) and alphas (C, H, W, 1)."""
        with torch.enable_grad():
            leaves = Splats(*(values.detach().requires_grad_() for values in splats))
            leaves, images, alphas = self._composite(leaves, image)
            gradients = torch.autograd.grad([images, alphas], list(leaves), [d_images, d_alphas])
        return Gradients(leaves.means2d.absgrad, *gradients)  # pyright: ignore[reportAttributeAccessIssue]

    def _composite(self, splats: Splats, image: TiledImage) -> tuple[Splats, Tensor, Tensor]:
        """Composite with the position in the lists as depth. Splats without a list are culled."""
        cameras, count, channels = splats.colors.shape
        depths = torch.zeros(cameras * count)
        depths[image.flatten_ids] = torch.arange(len(image.flatten_ids), dtype=torch.float32)
        radii = torch.zeros(cameras * count, dtype=torch.int32)
        radii[image.flatten_ids] = 1
        backgrounds = image.backgrounds
        if backgrounds is None:
            backgrounds = torch.zeros(cameras, channels)
        images, alphas = Compositing.apply(
            splats.means2d, splats.conics, splats.opacities, splats.colors, backgrounds,
            depths.view(cameras, count), radii.view(cameras, count), image.width, image.height, True,
        )  # fmt: skip
        return splats, images, alphas


def _flatten(values: Tensor) -> Tensor:
    """Flatten cameras and Gaussians, sharing memory. (C, N, ...) -> (C * N, ...)."""
    return values.view(-1, *values.shape[2:])


def _tiles(image: TiledImage) -> list[tuple[int, range, range, Tensor]]:
    """List camera, rows, columns and splat indices of each tile."""
    ends = [*image.offsets.flatten().tolist(), len(image.flatten_ids)]
    cameras, high, wide = image.offsets.shape
    tiles = []
    for number in range(cameras * high * wide):
        camera, row, column = number // (high * wide), number // wide % high, number % wide
        rows, columns = (
            range(index * image.tile_size, min((index + 1) * image.tile_size, size))
            for index, size in ((row, image.height), (column, image.width))
        )
        ids = image.flatten_ids[ends[number] : ends[number + 1]].long()
        tiles.append((camera, rows, columns, ids))
    return tiles


def _pixels(rows: range, columns: range) -> Tensor:
    """Compute the pixel centers of a tile. (P, 2)."""
    y, x = torch.meshgrid(torch.tensor(list(rows)) + 0.5, torch.tensor(list(columns)) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def _at_pixels(centers: Tensor, rows: range, columns: range) -> Tensor:
    """Expand centers to all pixels of a tile, for one gradient per pixel. (n, 2) -> (n, P, 2)."""
    return centers[:, None].expand(-1, len(rows) * len(columns), -1)


def _composite(
    centers: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Composite n splats front to back at P pixels. Returns color (P, D) and alpha (P, 1)."""
    x, y = (centers - pixels).unbind(-1)
    a, b, c = conics[:, :, None].unbind(1)
    sigma = 0.5 * (a * x * x + c * y * y) + b * x * y
    alpha = (opacities[:, None] * torch.exp(-sigma)).clamp_max(MAX_ALPHA)
    alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, 0.0)
    ended = ((torch.cumprod(1 - alpha, 0) <= MIN_TRANSMITTANCE) & (alpha > 0)).int().cumsum(0) > 0
    alpha = torch.where(ended, 0.0, alpha)
    transmittance = torch.cat([torch.ones(1, len(pixels)), torch.cumprod(1 - alpha, 0)])
    color = torch.einsum("np,nd->pd", alpha * transmittance[:-1], colors)
    return color, 1 - transmittance[-1][:, None]
