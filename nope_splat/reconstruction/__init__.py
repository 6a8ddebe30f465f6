"""From matches to cameras and points."""

from .photo_depths import photo_depths
from .reconstruct import reconstruct
from .resection import Resection, resect
from .scene import SparseScene, normalise
from .settings import ReconstructionSettings

__all__ = [
    "ReconstructionSettings",
    "Resection",
    "SparseScene",
    "normalise",
    "photo_depths",
    "reconstruct",
    "resect",
]
