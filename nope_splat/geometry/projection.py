"""Perspective projection and its derivatives, for NumPy arrays and PyTorch tensors.

Points are in camera coordinates (OpenCV axes: x right, y down, z forward). Image coordinates are relative to
the principal point. Pose increments multiply from the left, X' = exp(omega) X + nu (`rigid.move_poses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nope_splat.geometry.distortion import radial_scale, radial_terms, squared_radius, undistort
from nope_splat.utils.arrays import AnyArray, namespace

MIN_DEPTH = 1e-6
"""Smallest depth of a point in front of the camera."""


def perspective(points_camera: AnyArray, focal: Any = None, min_depth: float | None = None) -> AnyArray:
    """Project points with a pinhole camera: f (x / z, y / z).

    Args:
        points_camera: Points in camera coordinates. (..., 3).
        focal: Focal length, which broadcasts with (..., 2); by default one, for the plane at depth one.
        min_depth: Smallest depth to divide by, for points that may be behind the camera.

    Returns:
        Image coordinates in the unit of the focal length. (..., 2).
    """
    xy: Any = points_camera[..., :2]
    depth: Any = points_camera[..., 2:]
    return (xy if focal is None else focal * xy) / (depth if min_depth is None else depth.clip(min_depth))


def project(
    points_camera: AnyArray, focal: Any, radial: AnyArray | None = None, min_depth: float | None = None
) -> AnyArray:
    """Project points with a camera that may have radial distortion.

    Args:
        points_camera: Points in camera coordinates. (..., 3).
        focal: Focal length in pixels, which broadcasts with (..., 2).
        radial: k1 and k2, for all points or for each point. (2,) or (..., 2).
        min_depth: Smallest depth to divide by (see `perspective`).

    Returns:
        Pixels from the principal point. (..., 2).
    """
    pixels = perspective(points_camera, focal, min_depth)
    if radial is None:
        return pixels
    return pixels * radial_scale(squared_radius(pixels / focal), *radial_terms(radial))


def unproject(xy: AnyArray, focal: Any, radial: AnyArray | Sequence[float] | None = None) -> AnyArray:
    """Compute the rays through pixels, at depth one.

    Args:
        xy: Pixels from the principal point. (..., 2).
        focal: Focal length in pixels, which broadcasts with (..., 2).
        radial: k1 and k2, for all pixels or for each pixel. (2,) or (..., 2).

    Returns:
        Points in camera coordinates with z = 1. (..., 3).
    """
    plane = xy / focal
    if radial is not None:
        plane = undistort(plane, radial)
    xp = namespace(plane)
    return xp.concatenate([plane, xp.ones_like(plane[..., :1])], -1)


def projection_jacobian(plane: AnyArray, inverse_depth: AnyArray) -> AnyArray:
    """Differentiate `perspective` by the point in camera coordinates: [[w, 0, -w u], [0, w, -w v]].

    The derivative by the translation nu of the camera is the same.

    Args:
        plane: Projections (u, v) at depth one. (..., 2).
        inverse_depth: Inverse depths w, or multiples of them to scale the result. (...).

    Returns:
        Derivatives; rows are u and v. (..., 2, 3).
    """
    u, v, w = plane[..., 0], plane[..., 1], inverse_depth
    zero = namespace(plane).zeros_like(u)
    return _rows((w, zero, w * -u), (zero, w, w * -v))


def rotation_jacobian(plane: AnyArray) -> AnyArray:
    """Differentiate `perspective` by the rotation omega of the camera.

    Args:
        plane: Projections (u, v) at depth one. (..., 2).

    Returns:
        [[-u v, 1 + u^2, -v], [-(1 + v^2), u v, u]]. (..., 2, 3).
    """
    u, v = plane[..., 0], plane[..., 1]
    return _rows((-u * v, 1 + u * u, -v), (-(1 + v * v), u * v, u))


def _rows(first: Sequence[Any], second: Sequence[Any]) -> Any:
    """Build matrices from the entries of their two rows. N entries (...) per row -> (..., 2, N)."""
    stacked = namespace(first[0]).stack([*first, *second], -1)
    return stacked.reshape(*stacked.shape[:-1], 2, len(first))
