"""Differentiable rasterization of 3D Gaussians with one interface: gsplat on CUDA, numba kernels on CPUs.

All inputs and outputs are tensors. This package imports nothing from nope_splat except `utils`.
"""

from nope_splat.splatting.rasterizer.rasterization import (
    CameraModel,
    RasterizeMode,
    RenderMode,
    fold_intrinsics,
    rasterization,
)
from nope_splat.splatting.rasterizer.ssim import ssim
from nope_splat.splatting.rasterizer.threads import get_num_threads, set_num_threads

__all__ = [
    "CameraModel",
    "RasterizeMode",
    "RenderMode",
    "fold_intrinsics",
    "get_num_threads",
    "rasterization",
    "set_num_threads",
    "ssim",
]
