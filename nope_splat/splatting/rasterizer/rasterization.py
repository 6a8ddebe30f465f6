"""Differentiable rasterization of 3D Gaussians: on CUDA by gsplat, on a CPU by our own kernels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nope_splat.splatting.rasterizer.autograd import Compositing, Projection, SphericalHarmonics
from nope_splat.splatting.rasterizer.spherical_harmonics import MAX_DEGREE

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]

MAX_CHANNELS = 16
"""Channels that the CPU composites at once, depth included."""


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = False,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: RasterizeMode = "classic",
    **gsplat_options: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render 3D Gaussians, with gradients to all of them and to the cameras.

    Arguments and results are those of `gsplat.rasterization` 1.4, which does the work on CUDA unmodified. On
    a CPU our own kernels do it. There `Ks` receive gradients too; `packed`, `sparse_grad` and
    `gsplat_options` are not available; a splat is drawn as far as its opacity reaches 1/255 rather than to
    the edge of the 16-pixel tiles that three standard deviations touch; `info` has zeros for what is culled.

    Any number of threads may call it at once. On a CPU the result does not depend on the number of threads.
    It works in 88 bytes per Gaussian, 12 per pixel and, with up to 8 channels, 72 bytes per intersection of a
    splat with a tile of 64x64 pixels, of which most splats meet one or two.

    Args:
        means: Centers in world coordinates. (N, 3), float32.
        quats: Orientations (w, x, y, z), of any length. (N, 4)
        scales: Standard deviations along the axes. (N, 3)
        opacities: In 0 .. 1. (N,)
        colors: Channels, (N, D) or (C, N, D); with `sh_degree` the coefficients of spherical harmonics,
            (N, K, 3) or (C, N, K, 3). At most 16 channels on a CPU, the depth included.
        viewmats: World to camera, OpenCV axes. (C, 4, 4)
        Ks: Intrinsics in pixels; the center of the first pixel is (0.5, 0.5). (C, 3, 3)
        width: Of the images, in pixels.
        height: Of the images, in pixels.
        near_plane: Nearest depth that is drawn.
        far_plane: Farthest depth that is drawn.
        radius_clip: Splats with at most this radius in pixels are not drawn.
        eps2d: Variance in square pixels that every splat is blurred by.
        sh_degree: Degree of the spherical harmonics to evaluate, at most 3 on a CPU; None for plain channels.
        packed: gsplat's packed layout of intermediate results (CUDA only).
        backgrounds: Colors behind everything. (C, D)
        render_mode: "RGB" the channels, "D" accumulated depth, "ED" expected depth, or "RGB+D", "RGB+ED" with
            the depth as the last channel.
        sparse_grad: gsplat's sparse gradients (CUDA only).
        absgrad: Set `info["means2d"].absgrad` in the backward pass (AbsGS).
        rasterize_mode: "antialiased" dims splats by the opacity compensation of Mip-Splatting.
        **gsplat_options: Further options of gsplat (CUDA only).

    Returns:
        The images (C, H, W, channels), the alphas (C, H, W, 1), and a dictionary for the densification
        strategies: `means2d` (C, N, 2), `radii` (C, N), `depths` (C, N), `conics` (C, N, 3), `opacities`
        (C, N), `gaussian_ids` (None, as in gsplat's unpacked layout), `width`, `height`, `n_cameras`.

    Raises:
        ValueError: On a CPU, if an argument has a wrong shape or type, holds a NaN or an infinity, or asks
            for what is not available; the message names it.

    Example:
        >>> image, alpha, info = rasterization(
        ...     means=torch.tensor([[0.0, 0.0, 2.0]]),  # in front of the camera
        ...     quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        ...     scales=torch.tensor([[0.2, 0.2, 0.2]]),
        ...     opacities=torch.tensor([0.9]),
        ...     colors=torch.tensor([[1.0, 0.5, 0.0]]),
        ...     viewmats=torch.eye(4)[None],
        ...     Ks=torch.tensor([[[40.0, 0.0, 16.5], [0.0, 40.0, 12.5], [0.0, 0.0, 1.0]]]),
        ...     width=32,
        ...     height=24,
        ... )
        >>> image.shape, alpha.shape
        (torch.Size([1, 24, 32, 3]), torch.Size([1, 24, 32, 1]))
        >>> image[0, 12, 16]
        tensor([0.9000, 0.4500, 0.0000])
    """
    if means.device.type == "cuda":
        from gsplat import rasterization as on_cuda

        return on_cuda(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane,
            radius_clip, eps2d, sh_degree, packed, backgrounds=backgrounds, render_mode=render_mode,
            sparse_grad=sparse_grad, absgrad=absgrad, rasterize_mode=rasterize_mode, **gsplat_options,
        )  # fmt: skip
    unavailable = [name for name, value in (("packed", packed), ("sparse_grad", sparse_grad)) if value]
    unavailable += gsplat_options
    if unavailable:
        raise ValueError(f"The CPU rasterizer does not have: {', '.join(unavailable)}.")
    cameras = viewmats.shape[0]
    if backgrounds is None:
        backgrounds = means.new_zeros(cameras, 3 if sh_degree is not None else colors.shape[-1])
    _check_inputs(means, quats, scales, opacities, colors, viewmats, Ks, backgrounds, sh_degree)
    _check_options(width, height, render_mode, rasterize_mode)

    radii, means2d, depths, conics, compensations = Projection.apply(
        means, quats, scales, viewmats, Ks, width, height, eps2d, near_plane, far_plane, radius_clip,
        {"opacities": opacities, "colors": colors, "backgrounds": backgrounds},
    )  # fmt: skip
    opacities = _per_camera(opacities, cameras, 1)
    if rasterize_mode == "antialiased":
        opacities = opacities * compensations
    if render_mode in ("D", "ED"):
        colors = depths[..., None]
        backgrounds = means.new_zeros(cameras, 1)
    else:
        if sh_degree is None:
            colors = _per_camera(colors, cameras, 2)
        else:
            centers = -(torch.linalg.inv(viewmats[:, :3, :3]) @ viewmats[:, :3, 3:])[..., 0]
            coefficients = _per_camera(colors, cameras, 3)
            colors = SphericalHarmonics.apply(sh_degree, means, centers, coefficients, radii)
        if render_mode != "RGB":
            colors = torch.cat([colors, depths[..., None]], -1)
            backgrounds = torch.cat([backgrounds, means.new_zeros(cameras, 1)], -1)
    if colors.shape[-1] > MAX_CHANNELS:
        raise ValueError(f"The CPU rasterizer has at most {MAX_CHANNELS} channels, not {colors.shape[-1]}.")
    images, alphas = Compositing.apply(
        means2d, conics, opacities, colors, backgrounds, depths, radii, width, height, absgrad
    )
    if render_mode in ("ED", "RGB+ED"):
        expected_depth = images[..., -1:] / alphas.clamp(min=1e-10)
        images = torch.cat([images[..., :-1], expected_depth], -1)
    info = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "camera_ids": None,
        "gaussian_ids": None,
        "width": width,
        "height": height,
        "n_cameras": cameras,
    }
    return images, alphas, info


def fold_intrinsics(viewmats: Tensor, Ks: Tensor) -> Tensor:
    """Give intrinsics their gradient through a rasterizer that has none for them.

    gsplat differentiates with respect to the view matrices but not to `Ks`. A pinhole image depends on the
    focal length f, the principal point c and camera coordinates (X, Y, Z) only through f X / Z + c_x and
    f Y / Z + c_y: with X' = s X + a Z, where s = f / f.detach() is exactly 1 and
    a = (c_x - c_x.detach()) / f.detach() exactly 0, and Y' likewise, nothing changes in the image, and the
    view matrices carry the whole gradient of f and c. Hand `Ks` over detached. To the rasterizer the rotation
    is then a general matrix.

    Args:
        viewmats: World to camera. (C, 4, 4)
        Ks: Intrinsic matrices. (C, 3, 3)

    Returns:
        The view matrices, times [[s, 0, a_x, 0], [0, s, a_y, 0], [0, 0, 1, 0], [0, 0, 0, 1]]. (C, 4, 4)
    """
    focal, center = Ks.diagonal(dim1=1, dim2=2)[:, :2], Ks[:, :2, 2]
    scale, shear = focal / focal.detach(), (center - center.detach()) / focal.detach()
    folded = scale[..., None] * viewmats[:, :2] + shear[..., None] * viewmats[:, 2:3]
    return torch.cat([folded, viewmats[:, 2:]], 1)


def _per_camera(values: Tensor, cameras: int, dimensions: int) -> Tensor:
    """Values per Gaussian, with `dimensions` dimensions, repeated for every camera; others as they are."""
    if values.dim() > dimensions:
        return values
    return values[None] if cameras == 1 else values.expand(cameras, *values.shape)


def _check_inputs(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor,
    sh_degree: int | None,
) -> None:
    count, cameras = means.shape[0], viewmats.shape[0]
    named = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    named |= {"viewmats": viewmats, "Ks": Ks, "backgrounds": backgrounds}
    channels = 3 if sh_degree is not None else colors.shape[-1]
    shapes = {
        "means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,),
        "viewmats": (cameras, 4, 4), "Ks": (cameras, 3, 3), "backgrounds": (cameras, channels),
    }  # fmt: skip
    for name, tensor in named.items():
        shape = shapes.get(name)
        if shape is not None and tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, not {tuple(tensor.shape)}.")
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(f"{name} must be float32 on the CPU, not {tensor.dtype} on {tensor.device}.")
    trailing = 1 if sh_degree is None else 2
    lead = colors.shape[:-trailing]
    if lead not in ((count,), (cameras, count)) or (sh_degree is not None and colors.shape[-1] != 3):
        raise ValueError(f"colors must be (N, D), or (N, K, 3) with sh_degree, not {tuple(colors.shape)}.")
    if sh_degree is not None:
        if not 0 <= sh_degree <= MAX_DEGREE:
            raise ValueError(f"sh_degree must be 0 to {MAX_DEGREE} on a CPU, not {sh_degree}.")
        if (sh_degree + 1) ** 2 > colors.shape[-2]:
            raise ValueError(
                f"sh_degree {sh_degree} needs {(sh_degree + 1) ** 2} coefficients per channel in colors."
            )


def _check_options(width: int, height: int, render_mode: str, rasterize_mode: str) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be positive, not {width} and {height}.")
    if render_mode not in RenderMode.__args__:
        raise ValueError(f"render_mode must be one of {', '.join(RenderMode.__args__)}, not {render_mode}.")
    if rasterize_mode not in RasterizeMode.__args__:
        raise ValueError(f"rasterize_mode must be classic or antialiased, not {rasterize_mode}.")
