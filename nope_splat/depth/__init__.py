"""Monocular depth maps from networks or files, and their alignment to the reconstruction."""

from nope_splat.depth.depth_map import DepthKind, DepthMap, depth_edges
from nope_splat.depth.load import depth_maps_key, load_depth_maps
from nope_splat.depth.options import DepthSettings, ScaleShiftOptions
from nope_splat.depth.scale_shift import ScaleShift, fit_scale_shift

__all__ = [
    "DepthKind",
    "DepthMap",
    "DepthSettings",
    "ScaleShift",
    "ScaleShiftOptions",
    "depth_edges",
    "depth_maps_key",
    "fit_scale_shift",
    "load_depth_maps",
]
