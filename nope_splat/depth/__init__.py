"""Depth of single photographs: what networks or files say of it, and how that fits the world."""

from .depth_map import DepthKind, DepthMap
from .scale_shift import ScaleShift, fit_scale_shift

__all__ = ["DepthKind", "DepthMap", "ScaleShift", "fit_scale_shift"]
