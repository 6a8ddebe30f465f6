"""Lenses: what a camera is beside its focal length, and renderings seen through one.

On the plane at depth one, a lens takes the point p of a pinhole camera to d(p) (see `geometry.distortion`).
In pixels, along each axis, the image shows it at x = f d(p) + c. Rasterizers know pinhole cameras alone. So
the rendering is that of a pinhole with the same f and c, and pixel x of the image is compared with the
rendering at

    y(x) = f d^-1((x - c) / f) + c.

Nothing else is asked of a rasterizer, and gradients reach the rendering as well as f, c, k1 and k2.

The pinhole's image is larger than the image by the margin that its distorted border needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from nope_splat.geometry.distortion import undistort

MAX_MARGIN = 0.25
"""Largest margin, as a share of the longer side; what lies beyond shows the margin's last pixels."""
SUPPORT = 2
"""Pixels around a place that cubic interpolation takes."""


class Lens(NamedTuple):
    """Principal points and distortion of cameras, or of views."""

    shift: Tensor
    """Principal point minus that of the reconstruction, pixels of full-resolution images. (..., 2)."""
    radial: Tensor
    """Radial distortion k1 and k2. (..., 2)."""

    def of(self, index: Tensor | int) -> Lens:
        """Those of some cameras or views.

        Args:
            index: Which.
        """
        return Lens(self.shift[index], self.radial[index])


class Rendering(NamedTuple):
    """What a rasterizer makes of a view."""

    rgb: Tensor
    """Colors. (H, W, 3), in [0, 1]."""
    depth: Tensor
    """Depth (H, W, 1), or nothing (H, W, 0)."""
    opacity: Tensor
    """Opacity. (H, W, 1)."""
    info: dict[str, Any]
    """The rasterizer's report, for densification."""


Render = Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor, Tensor, dict[str, Any]]]
"""Renders a pinhole's image by its intrinsic matrix (1, 3, 3) and its width and height."""


def places_in_pinhole(K: Tensor, size: tuple[int, int], radial: Tensor) -> Tensor:
    """Where the image of a pinhole shows what an image through the lens shows at its pixels.

    Args:
        K: Intrinsic matrix of both. (3, 3).
        size: Width and height of the image.
        radial: k1 and k2. (2,).

    Returns:
        Pixel coordinates in the pinhole's image, for each pixel of the image. (H, W, 2).
    """
    columns, rows = (torch.arange(side, dtype=K.dtype, device=K.device) + 0.5 for side in size)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    focal, center = K.diagonal()[:2], K[:2, 2]
    return focal * undistort((pixels - center) / focal, radial) + center


def resample(image: Tensor, places: Tensor, mode: Literal["bilinear", "bicubic"] = "bicubic") -> Tensor:
    """Interpolate an image; beyond its border, it repeats its last pixels.

    Args:
        image: What to interpolate. (H', W', C).
        places: Pixel coordinates. (H, W, 2).
        mode: How.

    Returns:
        Values at the places, for which both arguments receive gradients. (H, W, C).
    """
    grid = 2 * places / places.new_tensor([image.shape[1], image.shape[0]]) - 1
    batch = image.movedim(-1, 0)[None], grid[None]
    return grid_sample(*batch, mode, padding_mode="border", align_corners=False)[0].movedim(0, -1)


def through_lens(render: Render, K: Tensor, size: tuple[int, int], radial: Tensor | None) -> Rendering:
    """Render what an image through a lens shows.

    Args:
        render: Renders a pinhole's image.
        K: Intrinsic matrix; where there is distortion it receives the gradient of the interpolation, that of
            the pinhole's image being the business of `render`. (1, 3, 3).
        size: Width and height of the image.
        radial: k1 and k2; None for a pinhole camera. (2,).

    Returns:
        The rendering, its pixels those of the image; the report is of the pinhole's image.
    """
    if radial is None or not (radial.requires_grad or bool(radial.any())):
        return Rendering(*render(K.detach(), size))
    places = places_in_pinhole(K[0], size, radial)
    inner = torch.minimum(places, places.new_tensor(size) - places).detach().amin()
    outer = SUPPORT - inner.nan_to_num(nan=-math.inf).item()  # of a lens that a step tries, and nobody has
    margin = math.ceil(min(max(outer, 0), MAX_MARGIN * max(size)))
    wider = K.detach().clone()
    wider[:, :2, 2] += margin
    rgb, depth, opacity, info = render(wider, (size[0] + 2 * margin, size[1] + 2 * margin))
    places = places + margin
    return Rendering(
        resample(rgb, places).clamp(0.0, 1.0),
        # Cubic interpolation overshoots at edges: colors are cut off, depths would be nobody's.
        resample(depth, places, "bilinear") if depth.numel() else depth[: size[1], : size[0]],
        resample(opacity, places, "bilinear"),
        info,
    )
