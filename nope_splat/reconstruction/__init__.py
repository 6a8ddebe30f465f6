"""From matches to cameras and points."""

from .photo_depths import photo_depths
from .reconstruct import ReconstructionSettings, reconstruct
from .resection import Resection, resect
from .scene import SparseScene, normalise

__all__ = [
    "ReconstructionSettings",
    "Resection",
    "SparseScene",
    "normalise",
    "photo_depths",
    "reconstruct",
    "resect",
]
