"""nope-splat turns a folder of images, without poses, intrinsics or order, into a Gaussian splat.

This module contains the public Python API. Each name is imported on first use:

    from nope_splat import reconstruct

- `reconstruct`: Estimate cameras and track points from a folder of images (`nope_splat.sfm`).
- `Reconstruction`: Result of `reconstruct`.
- `SfmOptions`: Options of `reconstruct`.
- `NopeSplatError`: Exception for errors that the user can correct, with an error code.
- `rasterization`: Render Gaussians differentiably, on CUDA or on a CPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nope_splat.errors import NopeSplatError
    from nope_splat.scene.reconstruction import Reconstruction as Reconstruction
    from nope_splat.sfm import SfmOptions, reconstruct
    from nope_splat.splatting.rasterizer import rasterization

__version__ = "0.1.0"
__all__ = ["NopeSplatError", "Reconstruction", "SfmOptions", "__version__", "rasterization", "reconstruct"]

_PUBLIC = {
    "NopeSplatError": ("nope_splat.errors", "NopeSplatError"),
    "SfmOptions": ("nope_splat.sfm", "SfmOptions"),
    "Reconstruction": ("nope_splat.scene.reconstruction", "Reconstruction"),
    "rasterization": ("nope_splat.splatting.rasterizer", "rasterization"),
    "reconstruct": ("nope_splat.sfm", "reconstruct"),
}
"""Module and attribute of each public name. Modules are imported on first use, because torch and numba load
slowly."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
