"""Settings of depth maps, and options of their alignment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from nope_splat.depth.depth_map import DepthKind
from nope_splat.utils.device_defaults import ByDevice

DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
"""The default network, on huggingface.co."""


@dataclass(frozen=True)
class DepthSettings:
    """Source of monocular depth maps, for registration by depth and for the depth losses."""

    model: str = DEPTH_MODEL
    """Depth network: a name on huggingface.co, or a folder with config.json, the preprocessor's configuration
    and model.safetensors. It needs `pip install transformers` and the weights: 100 MB for the default, 1.4 GB
    for Intel/dpt-large, the network of the paper (both Apache-2.0; Depth Anything's larger models are for
    non-commercial use only, CC BY-NC 4.0)."""
    device: Annotated[Literal["auto", "cpu"], ByDevice(cuda="auto", cpu="cpu")] = "auto"
    """Device of the network. "auto" uses a GPU if there is one, unless the training runs on a CPU."""
    maps: Path | None = None
    """Folder of depth maps to use instead of a network: for `a/b.jpg` either `a/b.npz` with the array `depth`
    (H, W) and optionally `confidence`, or a 16-bit `a/b.png`. A map may have any size and covers the whole
    image; NaN, infinity and zero are unknown. Requires `kind`."""
    kind: DepthKind | None = None
    """Quantity in the depth maps: depth up to a scale (metric), depth up to scale and shift (affine), or
    inverse depth up to scale and shift (disparity). Required with `maps`; for a network, overrides its
    configuration."""


@dataclass(frozen=True)
class ScaleShiftOptions:
    """Options of the robust fit of scale and shift."""

    min_num_points: int = 8
    """Minimum number of points of known depth."""
    num_hypotheses: int = 500
    """Number of random point pairs tried. If half of all points are wrong, one pair in four is good."""
    num_iterations: int = 20
    """Iterations of reweighted least squares."""
    min_noise: float = 1e-9
    """Relative noise below which a fit counts as exact."""
    typical_noise: float = 0.05
    """Relative noise of a good depth map; smaller residuals do not make a hypothesis better."""
    min_scale_sigmas: float = 3.0
    """Minimum ratio of the scale to its standard deviation; below it, the points do not determine scale and
    shift at once."""
    max_noise_ratio: float = 2.0
    """Maximum ratio of the noise of a fit without shift to that of a fit with shift. Maps beyond it are
    rejected."""
