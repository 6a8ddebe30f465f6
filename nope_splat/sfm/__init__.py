"""Structure from motion (SfM): camera poses, intrinsics and 3D points from verified matches."""

from nope_splat.scene.reconstruction import Reconstruction, normalize
from nope_splat.sfm.initialization.depth_maps import image_depths
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.pipeline import reconstruct
from nope_splat.sfm.problem import Priors
from nope_splat.sfm.registration.resection import Resection, resect

__all__ = [
    "MapperOptions",
    "Priors",
    "Reconstruction",
    "Resection",
    "SfmOptions",
    "image_depths",
    "normalize",
    "reconstruct",
    "resect",
]
