"""Dense seed points from warped optical flow, without learned weights."""

from .dense import SeedSettings, dense_seeds

__all__ = ["SeedSettings", "dense_seeds"]
