"""Rendering of Gaussians with a pinhole or fisheye camera: colors over a background, depth and opacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nope_splat.splatting.gaussians import Gaussians
from nope_splat.splatting.lens import Rendering
from nope_splat.splatting.rasterizer import CameraModel, RasterizeMode, rasterization


class CameraView(NamedTuple):
    """Intrinsics and pose of one image."""

    T_camera_world: Tensor
    """World-to-camera transform, OpenCV axes. (1, 4, 4)."""
    K: Tensor
    """Intrinsic matrix in pixels. (1, 3, 3)."""
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    distortion: Tensor | None = None
    """Distortion coefficients k1, k2, k3, k4, p1 and p2; None without distortion. (6,)."""
    camera_model: CameraModel = "pinhole"
    """Projection of the camera without distortion: "pinhole", or "fisheye" for the equidistant projection."""


@dataclass(frozen=True)
class RenderConfig:
    """Options of `render_gaussians`."""

    sh_degree: int = 3
    """Highest spherical-harmonics degree that is evaluated. With degree 0, colors do not depend on the view
    direction."""
    render_mode: Literal["RGB", "RGB+ED"] = "RGB"
    """Output of the rasterizer: "RGB" for colors alone, "RGB+ED" for colors and expected depth."""
    rasterize_mode: RasterizeMode = "classic"
    """With "antialiased", the opacity of each splat is reduced to compensate for the blur that the rasterizer
    adds, as in Mip-Splatting; with "classic", opacities are unchanged."""
    min_alpha: float = 0.05
    """Pixels with at most this rendered opacity (0 to 1) count as empty. The depth of empty pixels is
    replaced, see `empty_depth_factor`."""
    empty_depth_factor: float = 2.0
    """Depth assigned to empty pixels, as a multiple of the largest depth of the pixels that are not empty."""
    empty_image_depth: float = 1e3
    """Depth assigned to all pixels if all pixels are empty, in world units. The scene's median depth is
    one."""
    camera_model: CameraModel = "pinhole"
    """Projection of the camera, see `CameraView`."""


def render_gaussians(
    gaussians: Gaussians,
    T_camera_world: Tensor,
    K: Tensor,
    size: tuple[int, int],
    background: Tensor,
    config: RenderConfig,
) -> Rendering:
    """Render Gaussians with a pinhole or fisheye camera, over a background color.

    Args:
        gaussians: Gaussians to render.
        T_camera_world: World-to-camera transform, OpenCV axes. (1, 4, 4).
        K: Intrinsic matrix in pixels. (1, 3, 3). Pass K detached, because only the CPU rasterizer has
            gradients with respect to K.
        size: Width and height of the image in pixels.
        background: RGB background color, in [0, 1]. (3,).
        config: Degree of the spherical harmonics, modes, camera model, and the depth of empty pixels.

    Returns:
        The rendering. Empty pixels get a larger depth than all other pixels (see `RenderConfig`).
    """
    image, alpha, info = rasterization(
        *gaussians,
        viewmats=T_camera_world,
        Ks=K,
        width=size[0],
        height=size[1],
        sh_degree=config.sh_degree,
        render_mode=config.render_mode,
        packed=False,
        absgrad=True,
        rasterize_mode=config.rasterize_mode,
        camera_model=config.camera_model,
    )
    image, alpha = image[0], alpha[0]
    rgb, depth = image[..., :3] + (1 - alpha) * background, image[..., 3:]
    if depth.numel():
        # The viewer hides points and cameras that lie behind the rendered depth, so empty pixels need a large
        # depth.
        covered = alpha > config.min_alpha
        farthest = torch.where(covered, depth.detach(), 0.0).amax()
        empty = torch.where(farthest > 0, config.empty_depth_factor * farthest, config.empty_image_depth)
        depth = torch.where(covered, depth, empty)
    return Rendering(rgb.clamp(0.0, 1.0), depth, alpha, info)
