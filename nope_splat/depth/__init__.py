"""Depth of single images: what networks or files say of it, and how that fits the world."""

from nope_splat.depth.depth_map import DepthKind, DepthMap, on_depth_edge
from nope_splat.depth.find import depths_key, find_depths
from nope_splat.depth.scale_shift import ScaleShift, fit_scale_shift
from nope_splat.depth.settings import DepthSettings

__all__ = [
    "DepthKind",
    "DepthMap",
    "DepthSettings",
    "ScaleShift",
    "depths_key",
    "find_depths",
    "fit_scale_shift",
    "on_depth_edge",
]
