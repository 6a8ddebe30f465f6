"""From matches to cameras and points."""

from .reconstruct import ReconstructionSettings, reconstruct
from .resection import Resection, resect
from .scene import SparseScene, normalise

__all__ = ["ReconstructionSettings", "Resection", "SparseScene", "normalise", "reconstruct", "resect"]
