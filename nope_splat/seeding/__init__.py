"""Dense seed points from warped optical flow, without learned weights, or from depth maps."""

from nope_splat.seeding.dense import SeedSettings, dense_seeds
from nope_splat.seeding.depth_seeds import PixelSeeds, pixel_seeds

__all__ = ["PixelSeeds", "SeedSettings", "dense_seeds", "pixel_seeds"]
