"""A stand-in for the compiled extension `gsplat.cuda._backend._C` of gsplat 1.4 and 1.5.

gsplat's `rendering.py`, `cuda/_wrapper.py` and `strategy/` run unmodified on it, with their checks and
autograd functions. Each kernel makes the checks of the C++ code (device, contiguity, types, shapes) and
computes on the CPU. It writes NaN for culled Gaussians, for which the CUDA kernel leaves memory
uninitialized.

Projection and spherical harmonics use gsplat's PyTorch reference `gsplat.cuda._torch_impl`. `compositing`
computes the pixels.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pretend_cuda.compositing import MIN_ALPHA, ExactCompositing, FastCompositing, Splats, TiledImage
from pretend_cuda.device import DeviceError, ambient, is_pretend, unwrap, wrap
from pretend_cuda.synchronizations import SYNCHRONIZATIONS

CHANNELS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
"""Numbers of channels for which gsplat's kernels are compiled."""
MAX_EXTENT = 3.33
"""Extent of a splat in standard deviations in gsplat 1.5, unless its opacity is low."""


class ProjectionInputs(NamedTuple):
    """Cameras and options of a projection."""

    viewmats: Tensor
    """World-to-camera transforms. (C, 4, 4)."""
    Ks: Tensor
    """Intrinsic matrices. (C, 3, 3)."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""
    eps2d: float
    """Variance in square pixels that is added to every splat."""
    near: float = 0.0
    """Smallest depth that is drawn."""
    far: float = 1e10
    """Largest depth that is drawn."""
    with_compensations: bool = False
    """Whether opacity compensations are computed."""
    camera_model: Literal["pinhole", "fisheye"] = "pinhole"
    """Projection of the cameras."""


class GsplatKernels:
    """The functions of `_C` for unpacked 3D Gaussians, under their names in gsplat 1.4 and 1.5.

    Args:
        exact: Whether to truncate splats as gsplat does.
    """

    PINHOLE, FISHEYE = "pinhole", "fisheye"
    CameraModelType = types.SimpleNamespace(PINHOLE=PINHOLE, FISHEYE=FISHEYE)

    def __init__(self, exact: bool) -> None:
        self._compositing = ExactCompositing() if exact else FastCompositing()

    # Projection.

    def fully_fused_projection_fwd(
        self, means, covars, quats, scales, viewmats, Ks, width, height, eps2d, near, far, radius_clip,
        with_compensations, camera,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Project as gsplat 1.4: radii (C, N), centers, depths, conics and optional compensations."""
        view = ProjectionInputs(viewmats, Ks, width, height, eps2d, near, far, with_compensations, camera)
        return _project_forward((means, quats, scales), view, None, radius_clip)

    def projection_ewa_3dgs_fused_fwd(
        self, means, covars, quats, scales, opacities, viewmats, Ks, width, height, eps2d, near, far,
        radius_clip, with_compensations, camera,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Project as gsplat 1.5, where radii are (C, N, 2) and depend on the opacity."""
        view = ProjectionInputs(viewmats, Ks, width, height, eps2d, near, far, with_compensations, camera)
        return _project_forward((means, quats, scales), view, opacities, radius_clip)

    def fully_fused_projection_bwd(
        self, means, covars, quats, scales, viewmats, Ks, width, height, eps2d, camera, radii, conics,
        compensations, d_means2d, d_depths, d_conics, d_compensations, viewmats_need_grad,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Compute gradients of means, covariances (None), quaternions, scales and optional view matrices."""
        view = ProjectionInputs(
            viewmats, Ks, width, height, eps2d, with_compensations=d_compensations is not None,
            camera_model=camera,
        )  # fmt: skip
        gradients = d_means2d, d_depths, d_conics, d_compensations
        d_means, d_quats, d_scales, d_viewmats = _project_backward(
            (means, quats, scales), view, radii, gradients
        )
        return d_means, None, d_quats, d_scales, d_viewmats if viewmats_need_grad else None

    projection_ewa_3dgs_fused_bwd = fully_fused_projection_bwd

    # Spherical harmonics.

    def compute_sh_fwd(self, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None) -> Tensor:
        """Evaluate the colors in view directions."""
        from gsplat.cuda import _torch_impl as reference

        directions, coefficients = _checked("dirs", dirs), _checked("coeffs", coeffs)
        with ambient("cpu"), torch.no_grad():
            colors = reference._spherical_harmonics(degree, directions, coefficients).clone()
            if masks is not None:
                colors[~_checked("masks", masks, torch.bool)] = float("nan")
        return wrap(colors.contiguous())

    def compute_sh_bwd(
        self, num_bases: int, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None,
        d_colors: Tensor, dirs_need_grad: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Compute gradients of coefficients and, if required, directions."""
        from gsplat.cuda import _torch_impl as reference

        gradient = _checked("v_colors", d_colors)
        with ambient("cpu"), torch.enable_grad():
            leaves = [unwrap(values).clone().requires_grad_() for values in (dirs, coeffs)]
            colors = reference._spherical_harmonics(degree, *leaves)
            if masks is not None:
                gradient = torch.where(unwrap(masks)[..., None], gradient, 0.0)
            d_dirs, d_coeffs = torch.autograd.grad(
                colors, leaves, gradient, allow_unused=True, materialize_grads=True
            )
        return wrap(d_coeffs), wrap(d_dirs) if dirs_need_grad else None

    spherical_harmonics_fwd, spherical_harmonics_bwd = compute_sh_fwd, compute_sh_bwd

    # Tiles.

    def isect_tiles(
        self, means2d: Tensor, radii: Tensor, depths: Tensor, camera_ids: None, gaussian_ids: None,
        cameras: int, tile_size: int, wide: int, high: int, sort: bool, option: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Count tiles per splat; sort intersections by (camera, tile, depth) with their splat indices."""
        centers, depth = _checked("means2d", means2d), _checked("depths", depths)
        radius = _checked("radii", radii, torch.int32)
        if self._compositing.one_tile_per_image:
            wide, high, tile_size = 1, 1, 10**9
        with ambient("cpu"), torch.no_grad():
            splat, tile = _intersections(centers, radius, tile_size, wide, high)
            bits = depth.flatten()[splat].view(torch.int32).long()
            tile = tile + splat // depth.shape[1] * (wide * high)
            ids, order = torch.sort((tile << 32) | bits, stable=True)
            per_splat = torch.bincount(splat, minlength=depth.numel()).int().view_as(depth)
        SYNCHRONIZATIONS.record("gsplat: number of splats")
        return wrap(per_splat), wrap(ids), wrap(splat[order].int())

    def isect_offset_encode(self, ids: Tensor, cameras: int, wide: int, high: int) -> Tensor:
        """Compute the start of the list of each tile. (C, high, wide)."""
        intersections = _checked("isect_ids", ids, torch.int64)
        one_tile = self._compositing.one_tile_per_image
        with ambient("cpu"):
            tiles = torch.arange(cameras * (1 if one_tile else wide * high))
            offsets = torch.searchsorted(intersections >> 32, tiles).int()
            if one_tile:
                offsets = offsets[:, None, None].expand(-1, high, wide)
        return wrap(offsets.reshape(cameras, high, wide).contiguous())

    intersect_tile, intersect_offset = isect_tiles, isect_offset_encode

    # Pixels.

    def rasterize_to_pixels_fwd(
        self, means2d, conics, colors, opacities, backgrounds, masks, width, height, tile_size, offsets,
        flatten_ids,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Composite images and alphas. The last splat of each pixel is not computed (zero)."""
        splats = _splats(means2d, conics, colors, opacities)
        image = _image(width, height, tile_size, offsets, flatten_ids, backgrounds)
        with ambient("cpu"), torch.no_grad():
            images, alphas = self._compositing.forward(splats, image)
            last_ids = torch.zeros(alphas.shape[:3], dtype=torch.int32)
        return wrap(images), wrap(alphas), wrap(last_ids)

    def rasterize_to_pixels_bwd(
        self, means2d, conics, colors, opacities, backgrounds, masks, width, height, tile_size, offsets,
        flatten_ids, alphas, last_ids, d_images, d_alphas, absgrad,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Compute gradients: optionally absolute ones of centers; centers, conics, colors and opacities."""
        splats = _splats(means2d, conics, colors, opacities)
        image = _image(width, height, tile_size, offsets, flatten_ids, backgrounds)
        gradients = _checked("v_render_colors", d_images), _checked("v_render_alphas", d_alphas)
        with ambient("cpu"), torch.enable_grad():
            absolute, *d_splats = self._compositing.backward(splats, image, *gradients)
        return wrap(absolute) if absgrad else None, *(wrap(gradient) for gradient in d_splats)

    rasterize_to_pixels_3dgs_fwd, rasterize_to_pixels_3dgs_bwd = (
        rasterize_to_pixels_fwd,
        rasterize_to_pixels_bwd,
    )


def _checked(
    name: str, values: Tensor, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Make the checks of the C++ code, and unwrap an argument of a kernel."""
    if not is_pretend(values):
        raise DeviceError(f"{name} must be a CUDA tensor")
    if not values.is_contiguous():
        raise DeviceError(f"{name} must be contiguous")
    if values.dtype != dtype:
        raise DeviceError(f"expected scalar type {dtype} but found {values.dtype} ({name})")
    if shape is not None and tuple(values.shape) != shape:
        raise DeviceError(f"{name} has the shape {tuple(values.shape)}, not {shape}")
    return unwrap(values)


def _project(
    gaussians: tuple[Tensor, ...], view: ProjectionInputs
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Compute radii, centers, depths, conics and optional compensations."""
    from gsplat.cuda import _torch_impl as reference

    means, quats, scales = gaussians
    covariances, _ = reference._quat_scale_to_covar_preci(quats, scales, True, False, triu=False)
    assert covariances is not None
    return reference._fully_fused_projection(
        means, covariances, view.viewmats, view.Ks, view.width, view.height, view.eps2d, view.near, view.far,
        calc_compensations=view.with_compensations, camera_model=view.camera_model,
    )  # fmt: skip


def _project_forward(
    gaussians: tuple[Tensor, ...], view: ProjectionInputs, opacities: Tensor | None, radius_clip: float
) -> tuple[Tensor | None, ...]:
    """Project, cull and wrap. Radii depend on the opacities if given, as in gsplat 1.5."""
    count, cameras = len(gaussians[0]), len(view.viewmats)
    inputs = tuple(
        _checked(name, values, shape=(count, size))
        for name, values, size in zip(("means", "quats", "scales"), gaussians, (3, 4, 3), strict=True)
    )
    view = view._replace(
        viewmats=_checked("viewmats", view.viewmats, shape=(cameras, 4, 4)),
        Ks=_checked("Ks", view.Ks, shape=(cameras, 3, 3)),
    )
    with ambient("cpu"), torch.no_grad():
        radii, means2d, depths, conics, compensations = _project(inputs, view)
        if opacities is not None:
            opacity = _checked("opacities", opacities, shape=(count,))
            radii = _tight_radii(radii, conics, opacity if compensations is None else opacity * compensations)
        largest = radii if radii.dim() == 2 else radii.amax(-1)
        culled = (largest <= radius_clip) | (largest <= 0)
        radii = radii.masked_fill(culled if radii.dim() == 2 else culled[..., None], 0)
        outputs = [_fill_culled(values, culled) for values in (means2d, depths, conics)]
        if compensations is not None:
            compensations = compensations.masked_fill(culled, 0.0)
    return (wrap(radii.int().contiguous()), *(wrap(values) for values in outputs), wrap(compensations))


def _fill_culled(values: Tensor, culled: Tensor) -> Tensor:
    values = values.clone().contiguous()
    values[culled] = float("nan")
    return values


def _tight_radii(radii: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """Compute the radii of gsplat 1.5, up to an alpha of 1/255. (C, N, 2)."""
    a, b, c = conics.unbind(-1)
    variances = torch.stack([c, a], -1) / (a * c - b * b)[..., None]
    extent = (2 * (opacities / MIN_ALPHA).log()).clamp_min(0).sqrt().clamp_max(MAX_EXTENT)
    tight = torch.ceil(extent[..., None] * variances.sqrt())
    visible = (radii > 0).all(-1) & (opacities >= MIN_ALPHA)
    return torch.where(visible[..., None], tight, 0.0)


def _project_backward(
    gaussians: tuple[Tensor, ...], view: ProjectionInputs, radii: Tensor, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...]:
    """Compute gradients of means, quaternions, scales and view matrices."""
    names = "v_means2d", "v_depths", "v_conics", "v_compensations"
    checked = [
        _checked(name, gradient)
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None
    ]
    with ambient("cpu"), torch.enable_grad():
        visible = unwrap(radii) > 0
        visible = visible if visible.dim() == 2 else visible.all(-1)
        used = visible.any(0)
        leaves = [unwrap(values)[used].requires_grad_() for values in gaussians]
        viewmats = unwrap(view.viewmats).clone().requires_grad_()
        view = view._replace(viewmats=viewmats, Ks=unwrap(view.Ks))
        outputs = [output for output in _project(tuple(leaves), view)[1:] if output is not None]
        incoming = [
            torch.where(visible[:, used].view(*visible[:, used].shape, *[1] * (g.dim() - 2)), g[:, used], 0.0)
            for g in checked
        ]
        gradients_used = torch.autograd.grad(
            outputs, [*leaves, viewmats], incoming, allow_unused=True, materialize_grads=True
        )
        d_gaussians = [torch.zeros_like(unwrap(values)) for values in gaussians]
        for values, gradient in zip(d_gaussians, gradients_used[:3], strict=True):
            values[used] = gradient
    return (*(wrap(values) for values in d_gaussians), wrap(gradients_used[3]))


def _intersections(
    centers: Tensor, radii: Tensor, tile_size: int, wide: int, high: int
) -> tuple[Tensor, Tensor]:
    """Find splat (index over all cameras) and tile of every intersection, in the order of the splats."""
    radius = (radii[..., None] if radii.dim() == 2 else radii).float().expand(*centers.shape[:2], 2)
    limits = torch.tensor([wide, high])
    first = torch.floor((centers - radius) / tile_size).nan_to_num().long().clamp_min(0).minimum(limits)
    last = torch.ceil((centers + radius) / tile_size).nan_to_num().long().clamp_min(0).minimum(limits)
    visible = (radius > 0).all(-1).flatten()
    first, size = first.view(-1, 2), (last - first).view(-1, 2)
    counts = torch.where(visible, size.prod(-1), 0)
    splat = torch.repeat_interleave(counts)
    offset = torch.arange(len(splat)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    column, row = offset % size[splat, 0], offset // size[splat, 0]
    return splat, (first[splat, 1] + row) * wide + first[splat, 0] + column


def _splats(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor) -> Splats:
    """Check and unwrap the splats of a compositing kernel."""
    cameras, count, channels = colors.shape
    if channels not in CHANNELS:
        raise DeviceError(f"Unsupported number of channels: {channels}")
    values = Splats(
        _checked("means2d", means2d, shape=(cameras, count, 2)),
        _checked("conics", conics, shape=(cameras, count, 3)),
        _checked("colors", colors),
        _checked("opacities", opacities, shape=(cameras, count)),
    )
    # Values of culled splats must not be NaN in sums over all splats.
    with ambient("cpu"), torch.no_grad():
        return Splats(*(torch.nan_to_num(field) for field in values))


def _image(
    width: int, height: int, tile_size: int, offsets: Tensor, flatten_ids: Tensor, backgrounds: Tensor | None
) -> TiledImage:
    """Check and unwrap the other inputs of a compositing kernel."""
    return TiledImage(
        width,
        height,
        tile_size,
        _checked("tile_offsets", offsets, torch.int32),
        _checked("flatten_ids", flatten_ids, torch.int32),
        None if backgrounds is None else _checked("backgrounds", backgrounds),
    )


def install(exact: bool) -> None:
    """Replace `gsplat.cuda._backend`, which would compile the kernels.

    Args:
        exact: Whether to truncate splats as gsplat does.
    """
    module = types.ModuleType("gsplat.cuda._backend")
    contents: dict[str, Any] = {"_C": GsplatKernels(exact), "__all__": ["_C"]}
    vars(module).update(contents)
    sys.modules[module.__name__] = module
