"""Autograd functions of the CPU rasterizer: projection, spherical harmonics and compositing.

Shapes use C cameras, N Gaussians and K spherical-harmonics coefficients per color channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nope_splat.splatting.rasterizer.binning import ProjectedSplats, bin_splats
from nope_splat.splatting.rasterizer.camera_models import CAMERA_FUNCTIONS
from nope_splat.splatting.rasterizer.composite import composite
from nope_splat.splatting.rasterizer.composite_gradient import composite_gradient, slot_length
from nope_splat.splatting.rasterizer.projection import camera_gradient, project, project_gradient
from nope_splat.splatting.rasterizer.simd import Lanes
from nope_splat.splatting.rasterizer.spherical_harmonics import shade, shade_gradient
from nope_splat.splatting.rasterizer.threads import CHUNK, run_on_all_threads

TILE_SIZE = 64
LANES = Lanes.for_host()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    """View tensors as contiguous NumPy arrays; only tensors that are not contiguous are copied."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _empty(*shape: int) -> tuple[Tensor, np.ndarray]:
    """Allocate an uninitialized float32 tensor of the given shape, and a NumPy array that shares its memory.

    torch allocates the memory, because torch reuses freed blocks of this size. numpy would return them to the
    operating system, so that every pass would cause page faults.
    """
    tensor = torch.empty(shape, dtype=torch.float32, device="cpu")
    return tensor, tensor.numpy()


def _or_zeros(gradient: Tensor | None, *shape: int) -> np.ndarray:
    """Convert a gradient to a NumPy array; None gives zeros of the given shape."""
    return np.zeros(shape, np.float32) if gradient is None else _arrays(gradient)[0]


class Projection(torch.autograd.Function):
    """Projection of Gaussians to 2D splats, see the module `projection`."""

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
        camera_model: str,
        also_checked: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Project every Gaussian into every camera, and check all inputs for NaN and infinity.

        Args:
            ctx: Autograd context.
            means: Centers of the N Gaussians in world coordinates. (N, 3).
            quats: Quaternions (w, x, y, z). (N, 4).
            scales: Standard deviations along the axes, in world units. (N, 3).
            viewmats: World-to-camera transforms of the C cameras, OpenCV axes. (C, 4, 4).
            Ks: Intrinsic matrices in pixels. (C, 3, 3).
            width: Image width in pixels.
            height: Image height in pixels.
            eps2d: Variance in square pixels that is added to every splat.
            near: Smallest depth that is drawn, in world units.
            far: Largest depth that is drawn, in world units.
            radius_clip: Splats with at most this radius in pixels are culled.
            camera_model: Name of the projection in `CAMERA_FUNCTIONS`.
            also_checked: Other inputs of the rasterizer to check for NaN and infinity, by name.

        Returns:
            Radii in pixels (C, N), means2d in pixels (C, N, 2), depths in world units (C, N), conics (the
            entries a, b, c of the inverse 2D covariances [[a, b], [b, c]]) (C, N, 3), and opacity
            compensations (C, N).

        Raises:
            ValueError: If an input contains a NaN or an infinity.
        """
        inputs = _arrays(means, quats, scales, viewmats, Ks)
        checked = tuple(array.reshape(-1) for array in (*inputs, *_arrays(*also_checked.values())))
        not_finite = np.zeros(len(checked), np.bool_)
        cameras, count = viewmats.shape[0], means.shape[0]
        radii = torch.empty((cameras, count), dtype=torch.int32, device="cpu")
        outputs = [_empty(cameras, count, *shape) for shape in ((2,), (), (3,), ())]
        arrays = [radii.numpy(), *(array for _, array in outputs)]
        model = CAMERA_FUNCTIONS[camera_model]
        for camera in range(cameras):
            run_on_all_threads(
                project, model, *inputs[:3], inputs[3][camera], inputs[4][camera], width, height, eps2d, near,
                far, radius_clip, checked, *(array[camera] for array in arrays), not_finite,
            )  # fmt: skip
        names = ("means", "quats", "scales", "viewmats", "Ks", *also_checked)
        for name, bad in zip(names, not_finite.tolist(), strict=True):
            if bad:
                raise ValueError(f"{name} contains NaN or infinity.")
        ctx.save_for_backward(radii, means, quats, scales, viewmats, Ks)
        ctx.model, ctx.image = model, (width, height, eps2d)
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        means2d, depths, conics, compensations = (tensor for tensor, _ in outputs)
        return radii, means2d, depths, conics, compensations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of means, quats, scales, viewmats and Ks, and None for all other arguments."""
        radii, means, quats, scales, viewmats, Ks = _arrays(*ctx.saved_tensors)
        cameras, count = radii.shape
        splat_gradients = [
            _or_zeros(gradient, cameras, *shape)  # depths and compensations often receive no gradient
            for gradient, shape in zip(gradients[1:], ((count, 2), (0,), (count, 3), (0,)), strict=True)
        ]
        gaussians_need_grad = any(ctx.needs_input_grad[:3])
        outputs = [_empty(count if gaussians_need_grad else 0, size) for size in (3, 4, 3)]
        (d_viewmats, viewmats_out), (d_Ks, Ks_out) = _empty(cameras, 4, 4), _empty(cameras, 3, 3)
        for camera in range(cameras):
            sums = np.empty((-(-count // CHUNK), 16))
            run_on_all_threads(
                project_gradient, ctx.model, means, quats, scales, viewmats[camera], Ks[camera], *ctx.image,
                radii[camera], *(gradient[camera] for gradient in splat_gradients), gaussians_need_grad,
                camera > 0,
                *(array for _, array in outputs), sums,
            )  # fmt: skip
            camera_gradient(sums, viewmats_out[camera], Ks_out[camera])
        d_gaussians = [tensor if gaussians_need_grad else None for tensor, _ in outputs]
        return *d_gaussians, d_viewmats, d_Ks, *[None] * 8


class SphericalHarmonics(torch.autograd.Function):
    """Evaluation of view-dependent colors, see the module `spherical_harmonics`."""

    @staticmethod
    def forward(
        ctx: Any, degree: int, means: Tensor, centers: Tensor, coefficients: Tensor, radii: Tensor
    ) -> Tensor:
        """Evaluate the color of every Gaussian in every camera.

        Args:
            ctx: Autograd context.
            degree: Degree of the spherical harmonics to evaluate, 0 to 3.
            means: Centers of the N Gaussians in world coordinates. (N, 3).
            centers: Centers of the C cameras in world coordinates. (C, 3).
            coefficients: K spherical-harmonics coefficients per color channel. (C, N, K, 3).
            radii: Radii from the projection; Gaussians with radius zero are culled. (C, N).

        Returns:
            RGB colors; zero for culled Gaussians. (C, N, 3).
        """
        points, *inputs = _arrays(means, centers, coefficients, radii)
        colors, array = _empty(*radii.shape, 3)
        for camera in range(len(radii)):
            run_on_all_threads(shade, degree, points, *(values[camera] for values in inputs), array[camera])
        ctx.degree = degree
        ctx.save_for_backward(means, centers, coefficients, radii, colors)
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of means, centers and coefficients, and None for all other arguments."""
        means, *inputs = _arrays(*ctx.saved_tensors, gradients[0])
        cameras, count, terms, _ = ctx.saved_tensors[2].shape
        coefficients_need_grad = ctx.needs_input_grad[3]
        d_means, means_out = _empty(count, 3)
        d_coefficients, coefficients_out = _empty(cameras, count if coefficients_need_grad else 0, terms, 3)
        d_centers, centers_out = _empty(cameras, 3)
        for camera in range(cameras):
            sums = np.empty((-(-count // CHUNK), 3))
            run_on_all_threads(
                shade_gradient, ctx.degree, means, *(values[camera] for values in inputs), camera > 0,
                means_out, coefficients_need_grad, coefficients_out[camera], sums,
            )  # fmt: skip
            centers_out[camera] = sums.sum(0)
        return None, d_means, d_centers, d_coefficients if coefficients_need_grad else None, None


class Compositing(torch.autograd.Function):
    """Compositing of splats to pixels, see the modules `binning`, `composite` and `composite_gradient`."""

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
        """Composite the splats of every camera over its background.

        Args:
            ctx: Autograd context.
            means2d: Centers of the N splats of each of the C cameras, in pixels. (C, N, 2).
            conics: Entries a, b, c of the inverse 2D covariances [[a, b], [b, c]] of the splats. (C, N, 3).
            opacities: Opacities in [0, 1]. (C, N).
            colors: Color channels of the splats. (C, N, channels).
            backgrounds: Background color of each camera. (C, channels).
            depths: Depths in world units, by which the splats are sorted. (C, N).
            radii: Radii in pixels; splats with radius zero are culled. (C, N).
            width: Image width in pixels.
            height: Image height in pixels.
            absgrad: Whether the backward pass sets `means2d.absgrad`.

        Returns:
            Images (C, H, W, channels) and alphas (C, H, W, 1).
        """
        cameras, _, channels = colors.shape
        splats = _arrays(radii, means2d, conics, opacities, depths, colors)
        images, images_out = _empty(cameras, height, width, channels)
        alphas, alphas_out = _empty(cameras, height, width, 1)
        ctx.backgrounds = [tuple(background) for background in _arrays(backgrounds)[0]]
        ctx.tiles = []
        for camera in range(cameras):
            projected = ProjectedSplats(*(values[camera] for values in splats))
            lists = bin_splats(projected, width, height, TILE_SIZE)
            tiles, pixels = len(lists.tile_order), TILE_SIZE**2
            transmittance, stop = np.empty((tiles, pixels), np.float32), np.empty((tiles, pixels), np.int32)
            num_drawn = np.empty(tiles, np.int64)
            run_on_all_threads(
                composite, LANES, ctx.backgrounds[camera], width, height, TILE_SIZE.bit_length() - 1,
                lists.tiles_wide, lists.order, lists.part_offsets, lists.slot_offsets, lists.tile_order,
                lists.tile_offsets, lists.splats, lists.slots, lists.records, transmittance, stop, num_drawn,
                images_out[camera], alphas_out[camera],
            )  # fmt: skip
            ctx.tiles.append((lists, transmittance, stop, num_drawn))
        ctx.save_for_backward(means2d, opacities, alphas)
        ctx.absgrad = absgrad
        ctx.set_materialize_grads(False)
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients of means2d, conics, opacities, colors and backgrounds.

        If `absgrad` was True in the forward pass, `means2d.absgrad` is set to the sum over pixels of the
        absolute gradients (AbsGS).
        """
        means2d, opacities, alphas = ctx.saved_tensors
        cameras, count = opacities.shape
        height, width = alphas.shape[1:3]
        channels = len(ctx.backgrounds[0])
        d_images = _or_zeros(gradients[0], cameras, height, width, channels)
        d_alphas = _or_zeros(gradients[1], cameras, 0, 0, 1)  # alphas often receive no gradient
        outputs = [_empty(cameras, count, *shape) for shape in ((2,), (2,), (3,), (), (channels,))]
        for camera, (lists, transmittance, stop, num_drawn) in enumerate(ctx.tiles):
            slot_sums = np.empty((len(lists.slots), slot_length(channels, LANES)), np.float32)
            run_on_all_threads(
                composite_gradient, LANES, ctx.backgrounds[camera], TILE_SIZE, lists.tiles_wide,
                lists.tile_order, lists.tile_offsets, lists.splats, lists.slots, lists.slot_offsets,
                lists.records, transmittance, stop, num_drawn, _arrays(opacities)[0][camera],
                d_images[camera], d_alphas[camera], slot_sums, *(array[camera] for _, array in outputs),
            )  # fmt: skip
        d_means2d, d_means2d_abs, d_conics, d_opacities, d_colors = (tensor for tensor, _ in outputs)
        if ctx.absgrad:
            means2d.absgrad = d_means2d_abs
        d_backgrounds = None
        if ctx.needs_input_grad[4]:
            d_backgrounds = torch.einsum("chwk,chwa->ck", torch.from_numpy(d_images), 1 - alphas)
        return d_means2d, d_conics, d_opacities, d_colors, d_backgrounds, None, None, None, None, None
