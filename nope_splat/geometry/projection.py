"""Perspective projection and its derivatives, for NumPy arrays and PyTorch tensors.

Points are in camera coordinates (OpenCV axes: x right, y down, z forward). Image coordinates are relative to
the principal point. A pose increment (omega, nu) moves a point X to X' = exp([omega]x) X + nu (see
`rigid.move_poses`); derivatives with respect to pose increments are taken at omega = nu = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nope_splat.geometry.distortion import radial_scale, radial_terms, squared_radius, undistort
from nope_splat.utils.arrays import AnyArray, namespace

MIN_DEPTH = 1e-6
"""Smallest depth at which a point counts as in front of the camera, in the unit of the camera coordinates."""


def perspective(points_camera: AnyArray, focal: Any = None, min_depth: float | None = None) -> AnyArray:
    """Project points with a pinhole camera without distortion: f (x / z, y / z).

    Args:
        points_camera: Points in camera coordinates. (..., 3).
        focal: Focal length f, broadcastable with (..., 2); None for 1, which gives points on the plane at
            depth one.
        min_depth: Lower bound of the depth in the division, for points that may be behind the camera; None
            for no bound.

    Returns:
        Image coordinates relative to the principal point, in the unit of the focal length. (..., 2).
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
        focal: Focal length in pixels, broadcastable with (..., 2).
        radial: k1 and k2, shared by all points or per point; None for no distortion. (2,) or (..., 2).
        min_depth: Lower bound of the depth in the division; None for no bound.

    Returns:
        Pixel coordinates relative to the principal point, x then y. (..., 2).
    """
    pixels = perspective(points_camera, focal, min_depth)
    if radial is None:
        return pixels
    return pixels * radial_scale(squared_radius(pixels / focal), *radial_terms(radial))


def unproject(xy: AnyArray, focal: Any, radial: AnyArray | Sequence[float] | None = None) -> AnyArray:
    """Compute the undistorted viewing rays of pixels, as points at depth one.

    Args:
        xy: Pixel coordinates relative to the principal point, x then y. (..., 2).
        focal: Focal length in pixels, broadcastable with (..., 2).
        radial: k1 and k2, shared by all pixels or per pixel; None for no distortion. (2,) or (..., 2).

    Returns:
        Points in camera coordinates with z = 1. (..., 3).
    """
    plane = xy / focal
    if radial is not None:
        plane = undistort(plane, radial)
    xp = namespace(plane)
    return xp.concatenate([plane, xp.ones_like(plane[..., :1])], -1)


def projection_jacobian(plane: AnyArray, inverse_depth: AnyArray) -> AnyArray:
    """Compute the derivative of `perspective` with respect to the point: [[w, 0, -w u], [0, w, -w v]].

    The derivative with respect to a translation added to the camera coordinates is the same matrix.

    Args:
        plane: Projections (u, v) at depth one. (..., 2).
        inverse_depth: Inverse depths w = 1 / z; pass f / z for the derivative of pixel coordinates with the
            focal length f. (...).

    Returns:
        Jacobians; rows are u and v, columns x, y and z. (..., 2, 3).
    """
    u, v, w = plane[..., 0], plane[..., 1], inverse_depth
    zero = namespace(plane).zeros_like(u)
    return _rows((w, zero, w * -u), (zero, w, w * -v))


def rotation_jacobian(plane: AnyArray) -> AnyArray:
    """Compute the derivative of `perspective` with respect to a rotation of the point.

    The rotation vector omega moves a point X to exp([omega]x) X; the derivative is taken at omega = 0.

    Args:
        plane: Projections (u, v) of the points X at depth one. (..., 2).

    Returns:
        Jacobians [[-u v, 1 + u^2, -v], [-(1 + v^2), u v, u]]; rows are u and v, columns x, y and z of omega.
        (..., 2, 3).
    """
    u, v = plane[..., 0], plane[..., 1]
    return _rows((-u * v, 1 + u * u, -v), (-(1 + v * v), u * v, u))


def _rows(first: Sequence[Any], second: Sequence[Any]) -> Any:
    """Build 2 x N matrices from the N entries of each row. N arrays (...) per row -> (..., 2, N)."""
    stacked = namespace(first[0]).stack([*first, *second], -1)
    return stacked.reshape(*stacked.shape[:-1], 2, len(first))
