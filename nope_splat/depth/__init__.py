"""Depth of single photographs: what networks or files say of it, and how that fits the world."""

from .depth_map import DepthKind, DepthMap, on_depth_edge
from .find import depths_key, find_depths
from .scale_shift import ScaleShift, fit_scale_shift
from .settings import DepthSettings

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
