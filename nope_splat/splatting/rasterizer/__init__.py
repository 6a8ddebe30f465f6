"""Gaussian splatting on CUDA (gsplat) and on CPUs (numba kernels), behind one function.

This layer knows Gaussians, cameras and images as tensors; it knows neither images nor nerfstudio.
"""

from nope_splat.splatting.rasterizer.rasterization import (
    RasterizeMode,
    RenderMode,
    fold_intrinsics,
    rasterization,
)
from nope_splat.splatting.rasterizer.ssim import ssim
from nope_splat.splatting.rasterizer.threads import get_num_threads, set_num_threads

__all__ = [
    "RasterizeMode",
    "RenderMode",
    "fold_intrinsics",
    "get_num_threads",
    "rasterization",
    "set_num_threads",
    "ssim",
]
