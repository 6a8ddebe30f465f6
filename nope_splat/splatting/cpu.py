"""The CPU rasterizer as differentiable torch functions: projection, spherical harmonics, compositing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nope_splat.splatting.backward import composite_gradient, gather_gradients, slot_length
from nope_splat.splatting.binning import bin_splats
from nope_splat.splatting.compilation import kernel
from nope_splat.splatting.forward import composite
from nope_splat.splatting.projection import project, project_gradient
from nope_splat.splatting.simd import Lanes
from nope_splat.splatting.spherical_harmonics import shade, shade_gradient
from nope_splat.splatting.threads import CHUNK, run_on_all_threads

TILE_SIZE = 64
LANES = Lanes.of_this_machine()


def _array(tensor: Tensor) -> np.ndarray:
    """The contiguous values of a tensor, shared where possible."""
    return tensor.detach().contiguous().numpy()


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _zeros(*shape: int) -> tuple[Tensor, np.ndarray]:
    """A tensor of zeros, and the array that shares its memory."""
    tensor = torch.zeros(shape, dtype=torch.float32)
    return tensor, tensor.numpy()


def _or_zeros(gradient: Tensor | None, *shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32) if gradient is None else _array(gradient)


@kernel
def _largest_bits(values):
    """The bits of the largest magnitude in a float32 array: as integers they order as magnitudes do."""
    largest = np.uint32(0)
    bits = values.view(np.uint32)
    for i in range(len(bits)):
        largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
    return largest


def all_finite(tensor: Tensor) -> bool:
    """Whether a float32 tensor on the CPU holds neither NaN nor infinity."""
    return int(_largest_bits(_array(tensor).reshape(-1))) < 0x7F800000


class Projection(torch.autograd.Function):
    """Gaussians to splats: see `projection`."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        eps2d: float,
        near: float,
        far: float,
        radius_clip: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Radii, means2d, depths, conics and compensations of every camera and Gaussian."""
        cameras, count = len(viewmats), len(means)
        radii = torch.empty((cameras, count), dtype=torch.int32)
        means2d, conics = _empty(cameras, count, 2), _empty(cameras, count, 3)
        depths, compensations = _empty(cameras, count), _empty(cameras, count)
        inputs = [_array(tensor) for tensor in (means, quats, scales, viewmats, Ks)]
        for camera in range(cameras):
            run_on_all_threads(
                project, *inputs[:3], inputs[3][camera], inputs[4][camera], width, height, eps2d, near, far,
                radius_clip, radii[camera].numpy(), means2d[camera].numpy(), depths[camera].numpy(),
                conics[camera].numpy(), compensations[camera].numpy(),
            )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
        ctx.image = width, height, eps2d
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return radii, means2d, depths, conics, compensations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of means, quats, scales, viewmats and Ks."""
        means, quats, scales, viewmats, Ks, radii = (_array(tensor) for tensor in ctx.saved_tensors)
        cameras, count = radii.shape
        d_means2d, d_depths, d_conics, d_compensations = (
            _or_zeros(gradient, cameras, count, *shape)
            for gradient, shape in zip(gradients[1:], ((2,), (), (3,), ()), strict=True)
        )
        (d_means, means_out), (d_quats, quats_out), (d_scales, scales_out) = (
            _zeros(count, 3), _zeros(count, 4), _zeros(count, 3)
        )  # fmt: skip
        (d_viewmats, viewmats_out), (d_Ks, Ks_out) = _zeros(cameras, 4, 4), _zeros(cameras, 3, 3)
        for camera in range(cameras):
            sums = np.zeros((count // CHUNK + 1, 16))
            run_on_all_threads(
                project_gradient, means, quats, scales, viewmats[camera], Ks[camera], *ctx.image,
                radii[camera], d_means2d[camera], d_depths[camera], d_conics[camera], d_compensations[camera],
                means_out, quats_out, scales_out, sums,
            )  # fmt: skip
            total = sums.sum(0)
            viewmats_out[camera, :3] = total[:12].reshape(3, 4)
            K = Ks_out[camera]
            K[0, 0], K[1, 1], K[0, 2], K[1, 2] = total[12:]
        return d_means, d_quats, d_scales, d_viewmats, d_Ks, None, None, None, None, None, None


class SphericalHarmonics(torch.autograd.Function):
    """View-dependent colours: see `spherical_harmonics`."""

    @staticmethod
    def forward(
        ctx: Any, degree: int, means: Tensor, centres: Tensor, coefficients: Tensor, radii: Tensor
    ) -> Tensor:
        """Colours (C, N, 3) from camera centres (C, 3) and coefficients (C, N, K, 3)."""
        colors = _empty(*radii.shape, 3)
        for camera in range(len(radii)):
            run_on_all_threads(
                shade, degree, _array(means), _array(centres[camera]), _array(coefficients[camera]),
                _array(radii[camera]), colors[camera].numpy(),
            )  # fmt: skip
        ctx.degree = degree
        ctx.save_for_backward(means, centres, coefficients, radii, colors)
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of means, centres and coefficients."""
        means, centres, coefficients, radii, colors = ctx.saved_tensors
        cameras, count, terms, _ = coefficients.shape
        (d_means, means_out), (d_centres, centres_out) = _zeros(count, 3), _zeros(cameras, 3)
        d_coefficients = _empty(cameras, count, terms, 3)
        d_coefficients[:, :, (ctx.degree + 1) ** 2 :] = 0
        for camera in range(cameras):
            sums = np.zeros((count // CHUNK + 1, 3))
            run_on_all_threads(
                shade_gradient, ctx.degree, _array(means), _array(centres[camera]),
                _array(coefficients[camera]), _array(radii[camera]), _array(colors[camera]),
                _array(gradients[0][camera]), means_out, d_coefficients[camera].numpy(), sums,
            )  # fmt: skip
            centres_out[camera] = sums.sum(0)
        return None, d_means, d_centres, d_coefficients, None


class Compositing(torch.autograd.Function):
    """Splats to pixels: see `binning`, `forward` and `backward`."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        backgrounds: Tensor,
        depths: Tensor,
        radii: Tensor,
        width: int,
        height: int,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        """Images (C, H, W, channels) and alphas (C, H, W)."""
        cameras, _, channels = colors.shape
        images, alphas = _empty(cameras, height, width, channels), _empty(cameras, height, width)
        ctx.tiles = []
        for camera in range(cameras):
            lists = bin_splats(
                _array(radii[camera]), _array(means2d[camera]), _array(conics[camera]),
                _array(opacities[camera]), _array(depths[camera]), _array(colors[camera]),
                width, height, TILE_SIZE,
            )  # fmt: skip
            tiles, pixels = len(lists.tile_order), TILE_SIZE**2
            transmittance, end = np.empty((tiles, pixels), np.float32), np.empty((tiles, pixels), np.int32)
            needed = np.empty(tiles, np.int64)
            run_on_all_threads(
                composite, LANES, _background(backgrounds[camera]), width, height, TILE_SIZE,
                lists.tiles_wide, lists.tile_order, lists.tile_offsets, lists.splats, lists.records,
                transmittance, end, needed, images[camera].numpy(), alphas[camera].numpy(),
            )  # fmt: skip
            ctx.tiles.append((lists, transmittance, end, needed))
        ctx.save_for_backward(means2d, opacities, colors, backgrounds, alphas)
        ctx.absgrad = absgrad
        ctx.set_materialize_grads(False)
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of means2d, conics, opacities, colors and backgrounds; `absgrad` on means2d."""
        means2d, opacities, colors, backgrounds, alphas = ctx.saved_tensors
        cameras, count, channels = colors.shape
        height, width = alphas.shape[1:]
        d_images = _or_zeros(gradients[0], cameras, height, width, channels)
        d_alphas = _or_zeros(gradients[1], cameras, height, width)
        (d_means2d, means2d_out), (d_abs, abs_out) = _zeros(cameras, count, 2), _zeros(cameras, count, 2)
        (d_conics, conics_out), (d_opacities, opacities_out) = (
            _zeros(cameras, count, 3),
            _zeros(cameras, count),
        )
        d_colors, colors_out = _zeros(cameras, count, channels)
        for camera, (lists, transmittance, end, needed) in enumerate(ctx.tiles):
            slot_sums = np.empty((len(lists.slots), slot_length(channels, LANES)), np.float32)
            run_on_all_threads(
                composite_gradient, LANES, _background(backgrounds[camera]), TILE_SIZE, lists.tiles_wide,
                lists.tile_order, lists.tile_offsets, lists.splats, lists.slots, lists.records, transmittance,
                end, needed, d_images[camera], d_alphas[camera], slot_sums,
            )  # fmt: skip
            run_on_all_threads(
                gather_gradients, LANES, lists.gaussians, lists.records, lists.slot_offsets, slot_sums,
                _array(opacities[camera]), means2d_out[camera], abs_out[camera], conics_out[camera],
                opacities_out[camera], colors_out[camera],
            )  # fmt: skip
        if ctx.absgrad:
            means2d.absgrad = d_abs
        d_backgrounds = None
        if ctx.needs_input_grad[4]:
            d_backgrounds = torch.einsum("chwk,chw->ck", torch.from_numpy(d_images), 1 - alphas)
        return d_means2d, d_conics, d_opacities, d_colors, d_backgrounds, None, None, None, None, None


def _background(color: Tensor) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in color.tolist())
