"""What the user can choose about the depth of single images."""

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
    """Where depth of single images comes from, for registration by depth and for the depth losses."""

    model: str = DEPTH_MODEL
    """Network that tells depth: a name on huggingface.co, or a folder with config.json, the preprocessor's
    configuration and model.safetensors. It needs `pip install transformers` and the weights: 100 MB for the
    default, 1.4 GB for Intel/dpt-large, which is the paper's (both Apache-2.0; Depth Anything's larger models
    are for non-commercial use only, CC BY-NC 4.0)."""
    device: Annotated[Literal["auto", "cpu"], ByDevice(cuda="auto", cpu="cpu")] = "auto"
    """Where the network runs: "auto" is a GPU where there is one, unless the training runs on a CPU."""
    maps: Path | None = None
    """Folder of depth maps to take instead of a network's: for `a/b.jpg` an `a/b.npz` with the array `depth`
    (H, W), and perhaps `confidence`, or an `a/b.png` of 16 bits. They have any size and cover the image;
    NaN, infinity and zero are unknown. Needs `kind`."""
    kind: DepthKind | None = None
    """What the values are: depth up to a scale (metric), depth up to scale and shift (affine), or inverse
    depth up to scale and shift (disparity). Needed with `maps`; known of most networks, and overrides what
    their configuration says."""
