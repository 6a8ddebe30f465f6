"""Structural similarity (SSIM, Wang et al. 2004) of two images x and y, with its gradient.

Over every 11x11 window that lies inside the image, with Gaussian weights w of standard deviation 1.5,

    ssim = (2 mx my + C1) (2 sxy + C2) / ((mx^2 + my^2 + C1) (sx + sy + C2)),  C1 = 0.01^2, C2 = 0.03^2

where * is convolution, mx = w*x and my = w*y are means, sx + sy = w*(x^2 + y^2) - mx^2 - my^2 is the sum of
the variances, and sxy = w*(x y) - mx my the covariance. The kernels work on rows of interleaved channels,
(H, W C), in which neighboring pixels are C elements apart. `similarity` filters x, y, x^2 + y^2 and x y along
columns and rows, and stores the derivatives d1, d2 and d3 of ssim with respect to w*x, w*(x^2 + y^2) and w*(x
y). `similarity_gradient` filters these derivatives again:

    d_x = w*d1 + 2 x (w*d2) + y (w*d3)
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.threads import claim, run_on_all_threads

WINDOW = 11
SIGMA = 1.5

_C1 = np.float32(0.01**2)
_C2 = np.float32(0.03**2)
_TWO = np.float32(2.0)
_weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
_WEIGHTS = (_weights / _weights.sum()).astype(np.float32)


@inlined
def filter_along(rows, step, weights, filtered):
    """Convolve M rows (M, n + 10 step) with the SSIM window; neighboring pixels are `step` elements apart.

    The result is written to `filtered` (M, n).
    """
    for m in range(len(rows)):
        result = filtered[m]
        result[:] = np.float32(0.0)
        for k in range(len(weights)):
            weight, shifted = weights[k], rows[m, k * step :]
            for i in range(len(result)):
                result[i] += weight * shifted[i]


@kernel
def similarity(counter, x, y, step, weights, derivatives, row_sums):
    """Compute the SSIM of two images (H, W C) and its derivatives; pixels are `step` = C elements apart.

    Writes the derivatives of SSIM with respect to the filtered images x, x^2 + y^2 and x y to `derivatives`
    (3, H - 10, (W - 10) C), and the sum of SSIM over each row of windows to `row_sums` (H - 10,).
    """
    columns = np.empty((4, x.shape[1]), np.float32)
    windows = np.empty((4, derivatives.shape[2]), np.float32)
    d_mean, d_square, d_product = derivatives
    while True:
        row = claim(counter, 1)
        if row >= len(row_sums):
            break
        columns[:] = np.float32(0.0)
        sum_x, sum_y, sum_squares, sum_products = columns
        for k in range(len(weights)):
            weight, x_row, y_row = weights[k], x[row + k], y[row + k]
            for i in range(len(x_row)):
                wx, wy = weight * x_row[i], weight * y_row[i]
                sum_x[i] += wx
                sum_y[i] += wy
                sum_squares[i] += wx * x_row[i] + wy * y_row[i]
                sum_products[i] += wx * y_row[i]
        filter_along(columns, step, weights, windows)
        total = 0.0
        for i in range(windows.shape[1]):
            mx, my, squares, products = windows[0, i], windows[1, i], windows[2, i], windows[3, i]
            mean_term = _TWO * mx * my + _C1
            mean_norm = mx * mx + my * my + _C1
            structure_term = _TWO * (products - mx * my) + _C2
            structure_norm = squares - mx * mx - my * my + _C2
            norm = mean_norm * structure_norm
            ssim = mean_term * structure_term / norm
            by_square = -ssim / structure_norm
            by_product = _TWO * mean_term / norm
            d_mean[row, i] = (
                _TWO * my * structure_term / norm
                - _TWO * mx * ssim / mean_norm
                - my * by_product
                - _TWO * mx * by_square
            )
            d_square[row, i] = by_square
            d_product[row, i] = by_product
            total += ssim
        row_sums[row] = total


@kernel
def similarity_gradient(counter, x, y, step, weights, derivatives, scale, d_x):
    """Compute the gradient of `scale` times the sum of SSIM with respect to the image x.

    Uses the `derivatives` that `similarity` has written. The gradient is written to `d_x` (H, W C).
    """
    inner = derivatives.shape[2]
    margin = (len(weights) - 1) * step
    columns = np.zeros((3, inner + 2 * margin), np.float32)
    windows = np.empty((3, x.shape[1]), np.float32)
    while True:
        row = claim(counter, 1)
        if row >= len(x):
            break
        columns[:] = np.float32(0.0)
        for k in range(max(0, row - derivatives.shape[1] + 1), min(len(weights), row + 1)):
            for m in range(3):
                source, column = derivatives[m, row - k], columns[m, margin : margin + inner]
                for i in range(inner):
                    column[i] += weights[k] * source[i]
        filter_along(columns, step, weights, windows)
        for i in range(windows.shape[1]):
            by_value = windows[0, i] + _TWO * x[row, i] * windows[1, i] + y[row, i] * windows[2, i]
            d_x[row, i] = scale * by_value


class _SSIM(torch.autograd.Function):
    """Mean structural similarity on a CPU, as an autograd function."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor) -> Tensor:
        """Compute the mean SSIM over all windows and channels of two images (H, W, C)."""
        height, width, channels = image.shape
        x, y = (tensor.detach().contiguous().view(height, -1).numpy() for tensor in (image, target))
        rows, inner = height - WINDOW + 1, (width - WINDOW + 1) * channels
        derivatives, row_sums = np.empty((3, rows, inner), np.float32), np.empty(rows)
        run_on_all_threads(similarity, x, y, channels, _WEIGHTS, derivatives, row_sums)
        ctx.state = x, y, derivatives
        return torch.tensor(row_sums.sum() / (rows * inner), dtype=torch.float32, device="cpu")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the first image (H, W, C), and None for the second image."""
        x, y, derivatives = ctx.state
        height, width = x.shape
        channels = (width - derivatives.shape[2]) // (WINDOW - 1)
        d_x = np.empty_like(x)
        scale = np.float32(gradients[0].item() / derivatives[0].size)
        run_on_all_threads(similarity_gradient, x, y, channels, _WEIGHTS, derivatives, scale, d_x)
        return torch.from_numpy(d_x.reshape(height, width // channels, channels)), None


@cache
def _window(channels: int, device: torch.device) -> Tensor:
    """Create the SSIM window of each channel on a GPU. (C, 1, 1, 11).

    The result is cached, because pytorch_msssim would upload the window to the GPU at every call.
    """
    return torch.from_numpy(_WEIGHTS).repeat(channels, 1, 1, 1).to(device)


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Compute the mean structural similarity of two images with values in [0, 1].

    Differentiable with respect to `image` only. Uses pytorch_msssim on CUDA, and fused kernels that give the
    same values on CPUs.

    Args:
        image: Image that receives the gradient. (H, W, C), float32.
        target: Image to compare with, on the same device. (H, W, C), float32.

    Returns:
        The mean over all windows and channels; 1 for equal images. ().

    Raises:
        ValueError: If the shapes differ, or a side is shorter than the window of 11 pixels.
    """
    if image.shape != target.shape or image.dim() != 3 or min(image.shape[:2]) < WINDOW:
        raise ValueError(
            "ssim compares two (H, W, C) images of at least 11x11 pixels, "
            f"not {tuple(image.shape)} and {tuple(target.shape)}."
        )
    if image.device.type == "cuda":
        from pytorch_msssim import ssim as on_cuda

        planes = (tensor.permute(2, 0, 1)[None] for tensor in (image, target.detach()))
        return on_cuda(*planes, data_range=1.0, win=_window(image.shape[2], image.device))
    return _SSIM.apply(image, target)  # pyright: ignore[reportReturnType]
