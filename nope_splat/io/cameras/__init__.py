"""Read COLMAP, nerfstudio, RealityScan, Metashape, OpenSfM and Polycam camera files.

Each format has a module that converts a file to `CameraEntry` objects. The module `read` detects the format,
approximates lenses by perspective or fisheye cameras, and assigns cameras to upright images.
"""

from nope_splat.io.cameras.named_camera import NamedCamera
from nope_splat.io.cameras.names import match_names
from nope_splat.io.cameras.read import (
    GroundTruth,
    read_ground_truth,
    read_image_cameras,
    read_matching_cameras,
    read_named_cameras,
)

__all__ = [
    "GroundTruth",
    "NamedCamera",
    "match_names",
    "read_ground_truth",
    "read_image_cameras",
    "read_matching_cameras",
    "read_named_cameras",
]
