"""Rendering for cameras with distortion and a learned principal point.

A camera without distortion projects a viewing ray to the point p of a plane: by perspective or, for fisheye
lenses, by equidistant projection (see `geometry.projection`). Distortion maps p to d(p) (see
`geometry.distortion`). With focal length f and principal point c, the pixel coordinate along each axis is x =
f d(p) + c. Rasterizers do not support distortion. Gaussians are therefore rendered by a camera without
distortion, with the same projection, f and c, and this ideal image is resampled: pixel x of the distorted
image takes the value of the ideal image at

    y(x) = f d^-1((x - c) / f) + c.

The rasterizer stays unchanged, and the ideal image, f, c and the distortion coefficients all receive
gradients. For fisheye cameras, only the CPU rasterizer has a gradient of f and c. There, the ideal image is
rendered with fixed f_0 = f and c_0 = c, and y(x) = f_0 d^-1((x - c) / f) + c_0 carries the whole gradient.

On each side, the ideal image extends beyond the frame of the distorted image by a margin that is wide enough
for all positions y(x), up to a maximum.
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
from nope_splat.geometry.projection import LensModel

BICUBIC_SUPPORT = 2
"""Number of pixels that bicubic interpolation reads on each side of a position."""


@dataclass(frozen=True)
class DistortionConfig:
    """Options of `render_distorted`."""

    max_margin: float = 0.25
    """Largest margin by which the intermediate ideal image extends beyond the distorted image on each side,
    as a fraction of the longer image side. Pixels that need a wider margin take the value of the nearest
    border pixel. The limit bounds memory if an optimizer tries implausible distortion."""


DEFAULTS = DistortionConfig()


class Lens(NamedTuple):
    """Principal-point offsets and lens models, one row per camera or per view."""

    shift: Tensor
    """Offset (x, y) of the learned principal point from the principal point of the reconstruction, in
    full-resolution pixels. (..., 2)."""
    distortion: Tensor
    """Distortion coefficients k1, k2, k3, k4, p1 and p2. (..., 6)."""
    is_fisheye: Tensor | bool = False
    """Whether the projection is equidistant instead of perspective: one flag for all rows, or one per row.
    (...)."""

    @property
    def model(self) -> LensModel:
        """Projection and distortion."""
        return LensModel(self.distortion, self.is_fisheye)

    def to(self, device: torch.device | str) -> Lens:
        """Copy all tensors to a device."""
        flags = self.is_fisheye if isinstance(self.is_fisheye, bool) else self.is_fisheye.to(device)
        return Lens(self.shift.to(device), self.distortion.to(device), flags)

    def select(self, index: Tensor | int) -> Lens:
        """Select the rows of one or more cameras or views.

        Args:
            index: Index of a camera or view, or a tensor of indices.
        """
        is_fisheye = self.is_fisheye
        flags = is_fisheye if isinstance(is_fisheye, bool) else is_fisheye[index]
        return Lens(self.shift[index], self.distortion[index], flags)


class Rendering(NamedTuple):
    """Output of a rasterizer for one view."""

    rgb: Tensor
    """RGB colors, composited over the background. (H, W, 3), in [0, 1]."""
    depth: Tensor
    """Depth along the optical axis in world units (H, W, 1), or (H, W, 0) if depth was not rendered."""
    opacity: Tensor
    """Accumulated opacity, 0 to 1. (H, W, 1)."""
    info: dict[str, Any]
    """The dictionary `info` that the rasterizer returned, for densification."""


Render = Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor, Tensor, dict[str, Any]]]
"""Function that renders an image without distortion, given an intrinsic matrix (1, 3, 3) and the width and
height of the image in pixels. It returns colors, depth, opacity and the rasterizer's `info`, as in
`Rendering`."""


def ideal_positions(
    K: Tensor, size: tuple[int, int], distortion: Tensor | None, ideal_K: Tensor | None = None
) -> Tensor:
    """Compute where each pixel of the distorted image lies in the ideal image, which has no distortion.

    Args:
        K: Intrinsic matrix of the distorted image, in pixels. (3, 3).
        size: Width and height of the distorted image in pixels.
        distortion: Distortion coefficients; None for zeros. (6,).
        ideal_K: Intrinsic matrix of the ideal image, in pixels; None for K. (3, 3).

    Returns:
        Pixel coordinates in the ideal image, x then y. (H, W, 2).
    """
    columns, rows = (torch.arange(side, dtype=K.dtype, device=K.device) + 0.5 for side in size)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    focal, center = K.diagonal()[:2], K[:2, 2]
    plane = (pixels - center) / focal
    plane = plane if distortion is None else undistort(plane, distortion)
    ideal_K = K if ideal_K is None else ideal_K
    return ideal_K.diagonal()[:2] * plane + ideal_K[:2, 2]


def resample(image: Tensor, positions: Tensor, mode: Literal["bilinear", "bicubic"] = "bicubic") -> Tensor:
    """Interpolate an image at given positions.

    Positions outside the image take the value of the nearest border pixel.

    Args:
        image: Image to interpolate. (H', W', C).
        positions: Pixel coordinates, x then y. (H, W, 2).
        mode: Interpolation mode; bicubic values may overshoot at edges.

    Returns:
        Interpolated values, differentiable with respect to `image` and `positions`. (H, W, C).
    """
    grid = 2 * positions / positions.new_tensor([image.shape[1], image.shape[0]]) - 1
    batch = image.movedim(-1, 0)[None], grid[None]
    return grid_sample(*batch, mode, padding_mode="border", align_corners=False)[0].movedim(0, -1)


def shifted(image: Tensor, positions: Tensor) -> Tensor:
    """Return an image with the gradient that it would have if its pixels moved over a larger image.

    Args:
        image: The image. (H, W, C).
        positions: Pixel coordinates, x then y, whose values are those of the pixels of `image`. (H, W, 2).

    Returns:
        The image. Its derivatives with respect to `positions` are central differences of neighboring pixels,
        one-sided at the border. (H, W, C).
    """
    by_y, by_x = torch.gradient(image.detach(), dim=(0, 1))
    offset = positions - positions.detach()
    return image + by_x * offset[..., :1] + by_y * offset[..., 1:]


def render_distorted(
    render: Render,
    K: Tensor,
    size: tuple[int, int],
    distortion: Tensor | None,
    is_fixed: bool = False,
    config: DistortionConfig = DEFAULTS,
) -> Rendering:
    """Render the image of a camera with distortion.

    Args:
        render: Function that renders an image without distortion.
        K: Intrinsic matrix in pixels. (1, 3, 3). `render` gets a detached copy of K, so K receives a gradient
            only from the resampling of a distorted image. If the intrinsics should also receive the gradient
            of the ideal image, `render` has to provide it, or `is_fixed` has to be set.
        size: Width and height of the distorted image in pixels.
        distortion: Distortion coefficients; None for a camera without distortion, whose image is not
            resampled. (6,).
        is_fixed: Whether the positions in the ideal image provide the whole gradient with respect to K, as
            for fisheye cameras. Otherwise, they provide only the part that is due to distortion.
        config: Largest margin of the ideal image around the distorted image.

    Returns:
        The distorted rendering; `info` belongs to the ideal image.
    """
    ideal_K = K[0].detach() if is_fixed else K[0]
    if distortion is None:
        rendering = Rendering(*render(K.detach(), size))
        if not (is_fixed and K.requires_grad):
            return rendering
        positions = ideal_positions(K[0], size, None, ideal_K)
        depth = shifted(rendering.depth, positions) if rendering.depth.numel() else rendering.depth
        return rendering._replace(rgb=shifted(rendering.rgb, positions), depth=depth)
    positions = ideal_positions(K[0], size, distortion, ideal_K)
    inner = torch.minimum(positions, positions.new_tensor(size) - positions).detach().amin()
    # Implausible distortion, tried in a step that is later rejected, may give NaN.
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
