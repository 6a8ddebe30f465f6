"""One view of Gaussians: colors over a background, depth and opacity."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nope_splat.splatting.gaussians import Gaussians
from nope_splat.splatting.lens import Rendering
from nope_splat.splatting.rasterizer import RasterizeMode, rasterization


def render_gaussians(
    gaussians: Gaussians,
    T_camera_world: Tensor,
    K: Tensor,
    size: tuple[int, int],
    background: Tensor,
    sh_degree: int,
    render_mode: Literal["RGB", "RGB+ED"],
    rasterize_mode: RasterizeMode,
) -> Rendering:
    """Render what a pinhole camera sees.

    Args:
        gaussians: What to render.
        T_camera_world: World-to-camera transform, OpenCV axes. (1, 4, 4).
        K: Intrinsic matrix; it receives no gradient. (1, 3, 3).
        size: Width and height in pixels.
        background: Color. (3,).
        sh_degree: Degree of the spherical harmonics.
        render_mode: With or without depth.
        rasterize_mode: As of the rasterizer.

    Returns:
        The rendering; its depth lies beyond everything where nothing is.
    """
    image, alpha, info = rasterization(
        *gaussians,
        viewmats=T_camera_world,
        Ks=K,
        width=size[0],
        height=size[1],
        sh_degree=sh_degree,
        render_mode=render_mode,
        packed=False,
        absgrad=True,
        rasterize_mode=rasterize_mode,
    )
    image, alpha = image[0], alpha[0]
    rgb, depth = image[..., :3] + (1 - alpha) * background, image[..., 3:]
    if depth.numel():
        # Far where nothing is, or the viewer would hide its points and cameras behind the empty pixels.
        seen = alpha > 0.05
        farthest = torch.where(seen, depth.detach(), 0.0).amax()
        depth = torch.where(seen, depth, torch.where(farthest > 0, 2 * farthest, 1e3))
    return Rendering(rgb.clamp(0.0, 1.0), depth, alpha, info)
