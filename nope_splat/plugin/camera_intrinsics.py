"""Image size, intrinsic matrix, projection and distortion of nerfstudio's cameras."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nope_splat.geometry.distortion import NUM_TERMS
from nope_splat.geometry.projection import LensModel
from nope_splat.splatting.rasterizer import CameraModel


def intrinsic_matrices(cameras: Cameras) -> Tensor:
    """Build intrinsic matrices on the device of the cameras; nerfstudio's method returns CPU tensors.

    Args:
        cameras: C nerfstudio cameras.

    Returns:
        Intrinsic matrices in pixels, at the image size of each camera. (C, 3, 3).
    """
    K = cameras.fx.new_zeros(*cameras.shape, 3, 3)
    K[..., 0, 0], K[..., 1, 1] = cameras.fx[..., 0], cameras.fy[..., 0]
    K[..., 0, 2], K[..., 1, 2] = cameras.cx[..., 0], cameras.cy[..., 0]
    K[..., 2, 2] = 1.0
    return K


def image_size(camera: Cameras) -> tuple[int, int]:
    """Return the image size of a camera.

    Args:
        camera: A single camera. If its metadata contain the entry `size` (width, height), this entry is
            returned, which avoids a GPU synchronization.

    Returns:
        Width and height in pixels.
    """
    size = (camera.metadata or {}).get("size")
    if size is None:
        width, height = torch.cat([camera.width, camera.height]).flatten().tolist()  # one synchronization
        return int(width), int(height)
    return size


def is_fisheye(camera: Cameras) -> bool:
    """Check whether the projection of a camera is equidistant instead of perspective.

    Args:
        camera: A single camera. If its metadata contain the entry `is_fisheye`, this entry is returned, which
            avoids a GPU synchronization.
    """
    known = (camera.metadata or {}).get("is_fisheye")
    return int(camera.camera_type) == CameraType.FISHEYE.value if known is None else known


def distortion_terms(camera: Cameras) -> Tensor | None:
    """Return the learned distortion of a camera from its metadata.

    Args:
        camera: A single camera.

    Returns:
        Distortion coefficients from the metadata entry `distortion` (6,); None if there is no such entry.
    """
    distortion = (camera.metadata or {}).get("distortion")
    return None if distortion is None else distortion.reshape(NUM_TERMS)


def camera_model(camera: Cameras) -> CameraModel:
    """Return the camera model with which the rasterizer renders a single camera (see `is_fisheye`)."""
    return "fisheye" if is_fisheye(camera) else "pinhole"


def lens_model(camera: Cameras) -> LensModel:
    """Return projection and learned distortion of a single camera; the latter is None if there is none."""
    return LensModel(distortion_terms(camera), is_fisheye(camera))
