"""Dense seed points from warped optical flow, without learned weights, or from depth maps."""

from .dense import SeedSettings, dense_seeds
from .per_pixel import PixelSeeds, pixel_seeds

__all__ = ["PixelSeeds", "SeedSettings", "dense_seeds", "pixel_seeds"]
