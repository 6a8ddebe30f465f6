"""Settings for loading depth maps, and options for fitting their scale and shift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from nope_splat.depth.depth_map import DepthKind
from nope_splat.utils.device_defaults import ByDevice

DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
"""Name of the default depth network on huggingface.co."""


@dataclass(frozen=True)
class DepthSettings:
    """Source of the monocular depth maps that initialization, seeds and losses can use."""

    model: str = DEPTH_MODEL
    """Depth network: a name on huggingface.co, or a folder with config.json, the preprocessor's configuration
    and model.safetensors. The network needs `pip install transformers`. The weights of the default network
    take 100 MB; the weights of Intel/dpt-large, which NoPe-NeRF uses, take 1.4 GB. The license of both is
    Apache-2.0; Depth Anything's larger models are for non-commercial use only (CC BY-NC 4.0)."""
    device: Annotated[Literal["auto", "cpu"], ByDevice(cuda="auto", cpu="cpu")] = "auto"
    """Device that runs the depth network. "auto" uses a GPU if there is one, unless the training runs on a
    CPU; "cpu" always uses the CPU."""
    maps: Path | None = None
    """Folder of depth maps to use instead of a depth network. The map of `a/b.jpg` is either `a/b.npz` with
    the array `depth` (H, W) and optionally `confidence` (H, W), or a 16-bit `a/b.png`. A map may have any
    resolution but must cover the whole image; NaN, infinity and zero mark unknown values. Requires `kind`."""
    kind: DepthKind | None = None
    """Quantity in the depth maps: depth up to scale (metric), depth up to scale and shift (affine), or
    inverse depth up to scale and shift (disparity). Required with `maps`. For a network, this option
    overrides the quantity that is inferred from the network's configuration."""


@dataclass(frozen=True)
class ScaleShiftOptions:
    """Options for robustly fitting a depth map's scale and shift to points of known depth."""

    min_num_points: int = 8
    """Minimum number of points with known depth. Depth maps with fewer points are not fitted."""
    num_hypotheses: int = 500
    """Number of random point pairs from which scale and shift are computed as RANSAC hypotheses. If half of
    the points are outliers, one pair in four has no outlier."""
    num_iterations: int = 20
    """Number of iterations of reweighted least squares that refine the best hypothesis."""
    min_noise: float = 1e-9
    """Lower limit of the noise (relative depth error) that each iteration of reweighted least squares
    estimates. The limit avoids division by zero if the fit is exact."""
    typical_noise: float = 0.05
    """Relative depth error of a good depth map. Hypotheses are scored with at least this noise, so that
    points with such an error still count as inliers."""
    min_scale_sigmas: float = 3.0
    """Minimum ratio of the fitted scale to its standard deviation. If the ratio is smaller, the points do not
    determine both scale and shift, and only the scale is fitted."""
    max_noise_ratio: float = 2.0
    """Maximum noise of a fit of the scale alone, as a multiple of the noise of the fit with shift or of
    `typical_noise`, whichever is larger. Applies to affine and disparity maps whose shift cannot be
    determined; maps with more noise are rejected."""
