"""Pose and intrinsics of one image, independent of the image resolution."""

from __future__ import annotations

from dataclasses import dataclass

from nope_splat.geometry.camera import NO_DISTORTION
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class NamedCamera:
    """Pose and intrinsics of one image; focal length and principal point are relative to the image size."""

    T_world_camera: Array
    """Camera-to-world transform, OpenCV axes. (4, 4)."""
    focal: float
    """Focal length (mean of x and y), divided by the longer side of the image."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image center, (x, y), divided by the longer side of the image."""
    distortion: tuple[float, ...] = NO_DISTORTION
    """Distortion coefficients k1, k2, k3, k4, p1 and p2 (see `Camera`). (6,)."""
    is_fisheye: bool = False
    """Whether the projection is equidistant instead of perspective."""
