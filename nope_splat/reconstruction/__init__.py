"""From matches to cameras and points."""

from .scene import SparseScene

__all__ = ["SparseScene"]
