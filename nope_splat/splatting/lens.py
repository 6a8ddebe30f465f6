"""Principal point and radial distortion of a camera, and renderings with distortion.

On the plane at depth one, distortion maps the point p of a pinhole camera to d(p) (see
`geometry.distortion`). Its pixel coordinate along each axis is x = f d(p) + c. Rasterizers only support
pinhole cameras. Gaussians are therefore rendered by a pinhole with the same f and c, and the result is
resampled: pixel x of the distorted image takes the value of the pinhole image at

    y(x) = f d^-1((x - c) / f) + c.

The rasterizer stays unchanged, and the rendering, f, c, k1 and k2 all receive gradients.

The pinhole image has a margin around the image, wide enough for the pixels of its distorted border.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from nope_splat.geometry.distortion import undistort

BICUBIC_SUPPORT = 2
"""Pixels that bicubic interpolation reads on each side of a position."""


@dataclass(frozen=True)
class DistortionConfig:
    """Options of `render_distorted`."""

    max_margin: float = 0.25
    """Largest margin of the pinhole image, as a fraction of the longer side. Positions beyond it take the
    value of the nearest border pixel. Bounds memory for the distortion of a rejected step."""


DEFAULTS = DistortionConfig()


class Lens(NamedTuple):
    """Learned principal points and radial distortion, one row per camera or per view."""

    shift: Tensor
    """Offset from the principal point of the reconstruction, in full-resolution pixels. (..., 2)."""
    radial: Tensor
    """Radial distortion k1 and k2. (..., 2)."""

    def select(self, index: Tensor | int) -> Lens:
        """Select rows by index.

        Args:
            index: Index of a camera or view, or indices of several.
        """
        return Lens(self.shift[index], self.radial[index])


class Rendering(NamedTuple):
    """Output of a rasterizer for one view."""

    rgb: Tensor
    """Colors. (H, W, 3), in [0, 1]."""
    depth: Tensor
    """Depth (H, W, 1), or (H, W, 0) if it was not rendered."""
    opacity: Tensor
    """Opacity. (H, W, 1)."""
    info: dict[str, Any]
    """The rasterizer's `info`, for densification."""


Render = Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor, Tensor, dict[str, Any]]]
"""Renders a pinhole image, given its intrinsic matrix (1, 3, 3) and its (width, height)."""


def pinhole_positions(K: Tensor, size: tuple[int, int], radial: Tensor) -> Tensor:
    """Compute the position in the undistorted (pinhole) image of each pixel of the distorted image.

    Args:
        K: Intrinsic matrix of both images. (3, 3).
        size: Width and height of the distorted image.
        radial: k1 and k2. (2,).

    Returns:
        Pixel coordinates in the pinhole image. (H, W, 2).
    """
    columns, rows = (torch.arange(side, dtype=K.dtype, device=K.device) + 0.5 for side in size)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    focal, center = K.diagonal()[:2], K[:2, 2]
    return focal * undistort((pixels - center) / focal, radial) + center


def resample(image: Tensor, positions: Tensor, mode: Literal["bilinear", "bicubic"] = "bicubic") -> Tensor:
    """Interpolate an image. Positions outside take the value of the nearest border pixel.

    Args:
        image: Image to interpolate. (H', W', C).
        positions: Pixel coordinates. (H, W, 2).
        mode: Interpolation mode.

    Returns:
        Interpolated values, with gradients to both arguments. (H, W, C).
    """
    grid = 2 * positions / positions.new_tensor([image.shape[1], image.shape[0]]) - 1
    batch = image.movedim(-1, 0)[None], grid[None]
    return grid_sample(*batch, mode, padding_mode="border", align_corners=False)[0].movedim(0, -1)


def render_distorted(
    render: Render,
    K: Tensor,
    size: tuple[int, int],
    radial: Tensor | None,
    config: DistortionConfig = DEFAULTS,
) -> Rendering:
    """Render the image of a camera with radial distortion.

    Args:
        render: Renders a pinhole image.
        K: Intrinsic matrix. With distortion, it receives the gradient of the resampling; `render` is
            responsible for the gradient of the pinhole image. (1, 3, 3).
        size: Width and height of the image.
        radial: k1 and k2; None for a pinhole camera. (2,).
        config: Largest margin of the pinhole image.

    Returns:
        The rendering at the pixels of the image. Its `info` describes the pinhole image.
    """
    if radial is None or not (radial.requires_grad or bool(radial.any())):
        return Rendering(*render(K.detach(), size))
    positions = pinhole_positions(K[0], size, radial)
    inner = torch.minimum(positions, positions.new_tensor(size) - positions).detach().amin()
    # The distortion of a rejected step may be implausible and give NaN.
    outer = BICUBIC_SUPPORT - inner.nan_to_num(nan=-math.inf).item()
    margin = math.ceil(min(max(outer, 0), config.max_margin * max(size)))
    wider = K.detach().clone()
    wider[:, :2, 2] += margin
    rgb, depth, opacity, info = render(wider, (size[0] + 2 * margin, size[1] + 2 * margin))
    positions = positions + margin
    return Rendering(
        resample(rgb, positions).clamp(0.0, 1.0),
        # Bicubic interpolation overshoots at edges: clamp colors, and sample depth bilinearly.
        resample(depth, positions, "bilinear") if depth.numel() else depth[: size[1], : size[0]],
        resample(opacity, positions, "bilinear"),
        info,
    )
