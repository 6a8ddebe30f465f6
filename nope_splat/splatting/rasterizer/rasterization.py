"""Differentiable rasterization of 3D Gaussians, by gsplat on CUDA and by numba kernels on CPUs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nope_splat.splatting.rasterizer.autograd import Compositing, Projection, SphericalHarmonics
from nope_splat.splatting.rasterizer.spherical_harmonics import MAX_DEGREE

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]
CameraModel = Literal["pinhole", "fisheye"]

MAX_CHANNELS = 16
"""Maximum number of channels per Gaussian on a CPU, including depth."""


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
    camera_model: CameraModel = "pinhole",
    **gsplat_options: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Rasterize 3D Gaussians, with gradients with respect to the Gaussians and the cameras.

    Arguments and results are the same as in gsplat 1.4. On CUDA, `gsplat.rasterization` is called unmodified.
    On a CPU, there are four differences:

    - `Ks` also receives gradients.
    - `packed`, `sparse_grad` and `gsplat_options` are not supported.
    - A splat is drawn wherever its alpha is at least 1/255. gsplat draws a splat only in those tiles of 16x16
      pixels that are within three standard deviations of its center.
    - In `info`, `means2d`, `radii` and `conics` are zero for culled Gaussians.

    The function is thread-safe. On a CPU the result does not depend on the number of threads. A forward and
    backward pass takes 88 bytes per Gaussian, 12 per pixel and, with up to 8 channels, at most 72 bytes per
    intersection of a splat with a tile of 64x64 pixels. Most splats intersect one or two tiles.

    Args:
        means: Centers of the N Gaussians in world coordinates. (N, 3), float32.
        quats: Quaternions (w, x, y, z), not necessarily normalized. (N, 4)
        scales: Standard deviations along the axes, in world units. (N, 3)
        opacities: Opacities in [0, 1]. (N,)
        colors: D channels, (N, D) or (C, N, D); with `sh_degree`, K spherical-harmonics coefficients per
            color channel, (N, K, 3) or (C, N, K, 3). At most 16 channels on a CPU, including depth.
        viewmats: World-to-camera transforms of the C cameras, OpenCV axes. (C, 4, 4)
        Ks: Intrinsic matrices in pixels; the center of the first pixel is (0.5, 0.5). (C, 3, 3)
        width: Image width in pixels.
        height: Image height in pixels.
        near_plane: Smallest depth that is drawn, in world units.
        far_plane: Largest depth that is drawn, in world units.
        radius_clip: Splats with at most this radius in pixels are culled.
        eps2d: Variance in square pixels that is added to the covariance of every splat.
        sh_degree: Degree of the spherical harmonics to evaluate, at most 3 on a CPU; None for plain channels.
        packed: Whether to use gsplat's packed layout of intermediate results (CUDA only).
        backgrounds: Background colors; None for black. (C, D)
        render_mode: "RGB" for the channels, "D" for accumulated depth, "ED" for expected depth, or "RGB+D"
            and "RGB+ED" with depth as the last channel.
        sparse_grad: Whether to use gsplat's sparse gradients (CUDA only).
        absgrad: Whether the backward pass sets `info["means2d"].absgrad`, the sum over pixels of the absolute
            gradients (AbsGS).
        rasterize_mode: "antialiased" applies the opacity compensation of Mip-Splatting, "classic" does not.
        camera_model: "pinhole" for perspective projection, or "fisheye" for ideal equidistant projection: the
            distance of a pixel from the principal point is the focal length times the angle between view
            direction and optical axis. Gaussians have to lie in front of the camera (`near_plane`), so that
            fields of view are below 180 degrees.
        **gsplat_options: Other options of gsplat (CUDA only).

    Returns:
        The images (C, H, W, channels), the alphas (C, H, W, 1), and a dictionary for the densification
        strategies: `means2d` (C, N, 2), `radii` (C, N), `depths` (C, N), `conics` (C, N, 3), `opacities`
        (C, N), `camera_ids` and `gaussian_ids` (None, as in gsplat's unpacked layout), `width`, `height`,
        `n_cameras`.

    Raises:
        ValueError: If `camera_model` is neither "pinhole" nor "fisheye". On a CPU, also if another argument
            has a wrong shape or type, contains a NaN or an infinity, or is not supported. The message names
            the argument.

    Example:
        >>> import torch
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
    _check_camera_model(camera_model)
    if means.device.type == "cuda":
        from gsplat import rasterization as gsplat_rasterization

        return gsplat_rasterization(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane,
            radius_clip, eps2d, sh_degree, packed, backgrounds=backgrounds, render_mode=render_mode,
            sparse_grad=sparse_grad, absgrad=absgrad, rasterize_mode=rasterize_mode,
            camera_model=camera_model, **gsplat_options,
        )  # fmt: skip
    _check_supported(packed=packed, sparse_grad=sparse_grad, **gsplat_options)
    cameras = viewmats.shape[0]
    if backgrounds is None:
        backgrounds = means.new_zeros(cameras, 3 if sh_degree is not None else colors.shape[-1])
    inputs = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    inputs |= {"viewmats": viewmats, "Ks": Ks, "backgrounds": backgrounds}
    _check_inputs(inputs, sh_degree)
    _check_options(width, height, render_mode, rasterize_mode)

    radii, means2d, depths, conics, compensations = Projection.apply(
        means, quats, scales, viewmats, Ks, width, height, eps2d, near_plane, far_plane, radius_clip,
        camera_model, {"opacities": opacities, "colors": colors, "backgrounds": backgrounds},
    )  # fmt: skip
    opacities = _per_camera(opacities, cameras, 1)
    if rasterize_mode == "antialiased":
        opacities = opacities * compensations
    channels = []
    if render_mode not in ("D", "ED"):
        channels.append(_evaluate_colors(means, colors, viewmats, radii, sh_degree))
    if render_mode != "RGB":
        channels.append(depths[..., None])
        black = means.new_zeros(cameras, 1)
        backgrounds = torch.cat([backgrounds, black], -1) if len(channels) == 2 else black
    colors = torch.cat(channels, -1) if len(channels) == 2 else channels[0]
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
    """Pass the gradient of `Ks` through the view matrices, for rasterizers without a gradient of `Ks`.

    gsplat differentiates with respect to the view matrices but not with respect to `Ks`. A pinhole image
    depends on the focal length f, the principal point c and camera coordinates (X, Y, Z) only through f X / Z
    + c_x and f Y / Z + c_y. Replace X by X' = s X + a_x Z, with s = f / f.detach(), which is exactly 1, and
    a_x = (c_x - c_x.detach()) / f.detach(), which is exactly 0, and replace Y in the same way. Then the image
    is unchanged, and the view matrices carry the whole gradient of f and c. Pass `Ks` detached to the
    rasterizer. The rasterizer has to support view matrices whose 3 x 3 part is not a rotation.

    This holds for pinhole cameras only: with `camera_model="fisheye"`, the angle from the optical axis is not
    proportional to X and Y. The gradients of fisheye intrinsics exist only on a CPU, where `rasterization`
    gives those of `Ks` itself. Each of the two axes has its own focal length, fx or fy.

    Args:
        viewmats: World-to-camera transforms. (C, 4, 4)
        Ks: Intrinsic matrices in pixels. (C, 3, 3)

    Returns:
        View matrices multiplied by [[s, 0, a_x, 0], [0, s, a_y, 0], [0, 0, 1, 0], [0, 0, 0, 1]]. (C, 4, 4)
    """
    focal, center = Ks.diagonal(dim1=1, dim2=2)[:, :2], Ks[:, :2, 2]
    scale, shear = focal / focal.detach(), (center - center.detach()) / focal.detach()
    folded = scale[..., None] * viewmats[:, :2] + shear[..., None] * viewmats[:, 2:3]
    return torch.cat([folded, viewmats[:, 2:]], 1)


def _per_camera(values: Tensor, cameras: int, dimensions: int) -> Tensor:
    """Expand values per Gaussian to one copy per camera; return values that are already per camera unchanged.

    Args:
        values: Values per Gaussian (N, ...), or per camera and Gaussian (C, N, ...).
        cameras: Number of cameras C.
        dimensions: Number of dimensions that `values` has if it is per Gaussian.

    Returns:
        Values per camera and Gaussian. (C, N, ...).
    """
    if values.dim() > dimensions:
        return values
    return values[None] if cameras == 1 else values.expand(cameras, *values.shape)


def _evaluate_colors(
    means: Tensor, colors: Tensor, viewmats: Tensor, radii: Tensor, sh_degree: int | None
) -> Tensor:
    """Evaluate the channels of each Gaussian in each camera.

    Args:
        means: Centers in world coordinates. (N, 3).
        colors: Channels or spherical-harmonics coefficients, as in `rasterization`.
        viewmats: World-to-camera transforms. (C, 4, 4).
        radii: Radii in pixels; zero for culled Gaussians. (C, N).
        sh_degree: Degree of the spherical harmonics; None for plain channels, which are only expanded to all
            cameras.

    Returns:
        Channels. (C, N, D).
    """
    cameras = viewmats.shape[0]
    if sh_degree is None:
        return _per_camera(colors, cameras, 2)
    centers = -(torch.linalg.inv(viewmats[:, :3, :3]) @ viewmats[:, :3, 3:])[..., 0]
    coefficients = _per_camera(colors, cameras, 3)
    return SphericalHarmonics.apply(sh_degree, means, centers, coefficients, radii)


def _check_supported(**gsplat_options: Any) -> None:
    """Raise a ValueError for options of gsplat that the CPU rasterizer does not support.

    The only options accepted are `packed=False` and `sparse_grad=False`.
    """
    unavailable = [
        name for name, value in gsplat_options.items() if value or name not in ("packed", "sparse_grad")
    ]
    if unavailable:
        raise ValueError(f"The CPU rasterizer does not support: {', '.join(unavailable)}.")


def _check_inputs(inputs: dict[str, Tensor], sh_degree: int | None) -> None:
    """Raise a ValueError if an input has a wrong shape, type or device, or `sh_degree` is not supported."""
    count, cameras, colors = len(inputs["means"]), len(inputs["viewmats"]), inputs["colors"]
    channels = 3 if sh_degree is not None else colors.shape[-1]
    shapes = {
        "means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,),
        "viewmats": (cameras, 4, 4), "Ks": (cameras, 3, 3), "backgrounds": (cameras, channels),
    }  # fmt: skip
    for name, tensor in inputs.items():
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
    """Raise a ValueError if the image size or a mode is invalid."""
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be positive, not {width} and {height}.")
    if render_mode not in RenderMode.__args__:
        raise ValueError(f"render_mode must be one of {', '.join(RenderMode.__args__)}, not {render_mode}.")
    if rasterize_mode not in RasterizeMode.__args__:
        raise ValueError(f"rasterize_mode must be classic or antialiased, not {rasterize_mode}.")


def _check_camera_model(camera_model: str) -> None:
    """Raise a ValueError if the camera model is not supported, as gsplat's "ortho"."""
    if camera_model not in CameraModel.__args__:
        raise ValueError(f"camera_model must be pinhole or fisheye, not {camera_model}.")
