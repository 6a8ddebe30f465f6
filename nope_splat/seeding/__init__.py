"""Initialization of the Gaussians with dense points from optical flow or from depth maps."""

from nope_splat.seeding.dense import dense_seeds
from nope_splat.seeding.depth_seeds import GaussianSeeds, seeds_from_depth
from nope_splat.seeding.settings import SeedSettings
from nope_splat.seeding.view import pinhole_camera

__all__ = ["GaussianSeeds", "SeedSettings", "dense_seeds", "pinhole_camera", "seeds_from_depth"]
