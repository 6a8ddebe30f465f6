"""Projection of points by a lens and its derivatives, for NumPy arrays and PyTorch tensors.

Points are in camera coordinates (OpenCV axes: x right, y down, z forward). Image coordinates are relative to
the principal point. A lens projects a point to a plane and then distorts it there (see
`geometry.distortion`). Two projections exist:

- perspective: (x / z, y / z), the plane at depth one;
- equidistant, of fisheye lenses: theta (x, y) / |(x, y)|, where theta is the angle between the point and the
  optical axis. It also shows points beside and behind the camera.

A pose increment (omega, nu) moves a point X to X' = exp([omega]x) X + nu (see `rigid.move_poses`);
derivatives with respect to pose increments are taken at omega = nu = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nope_splat.geometry.distortion import distort, squared_radius, undistort
from nope_splat.utils.arrays import AnyArray, namespace

MIN_DEPTH = 1e-6
"""Smallest depth at which a point counts as in front of the camera, in the unit of the camera coordinates."""
MIN_FISHEYE_COSINE = float(np.cos(np.radians(150)))
"""Cosine of the largest angle between optical axis and point at which a fisheye lens shows the point. Real
lenses show at most 140 degrees."""
SMALL_RATIO = 1e-4
"""Ratio |(x, y)| / |z| below which derivatives of the equidistant projection are computed from their series,
because the exact formula cancels."""


class LensModel(NamedTuple):
    """Projection and distortion of one lens, or of one lens per point."""

    distortion: Any
    """Distortion coefficients k1, k2, k3, k4, p1 and p2 (see `geometry.distortion`). (6,) or (..., 6)."""
    is_fisheye: Any = False
    """Whether the projection is equidistant instead of perspective: one flag, or one per point. (...)."""

    def select(self, index: Any) -> LensModel:
        """Select the lenses of points from a list of lenses.

        Args:
            index: Index of the lens of each point. (...).
        """
        is_fisheye = self.is_fisheye if isinstance(self.is_fisheye, bool) else self.is_fisheye[index]
        return LensModel(self.distortion[index], is_fisheye)

    @property
    def has_fisheye(self) -> bool:
        """Whether any of the lenses has an equidistant projection."""
        return self.is_fisheye if isinstance(self.is_fisheye, bool) else bool(self.is_fisheye.any())


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


def equidistant(points_camera: AnyArray) -> AnyArray:
    """Project points with a fisheye lens without distortion: theta (x, y) / |(x, y)|.

    theta is the angle between the point and the optical axis, in radians.

    Args:
        points_camera: Points in camera coordinates, except the origin. (..., 3).

    Returns:
        Points on the plane; their distance from the origin is theta. (..., 2).
    """
    xy: Any = points_camera[..., :2]
    depth: Any = points_camera[..., 2:]
    xp, radius = namespace(points_camera), _axis_distance(points_camera)
    return xy * (xp.arctan2(radius, depth) / radius)


def to_plane(points_camera: AnyArray, is_fisheye: Any = False, min_depth: float | None = None) -> AnyArray:
    """Project points to the plane on which distortion is applied.

    Args:
        points_camera: Points in camera coordinates. (..., 3).
        is_fisheye: Whether the projection is equidistant instead of perspective: one flag, or one per point.
            (...).
        min_depth: Lower bound of the depth in the perspective division; None for no bound.

    Returns:
        Points on the plane. (..., 2).
    """
    lens = LensModel(None, is_fisheye)
    if not lens.has_fisheye:
        return perspective(points_camera, min_depth=min_depth)
    if isinstance(is_fisheye, bool):
        return equidistant(points_camera)
    xp = namespace(points_camera)
    flat = perspective(points_camera, min_depth=min_depth)
    return xp.where(is_fisheye[..., None], equidistant(points_camera), flat)


def is_visible(points_camera: AnyArray, is_fisheye: Any = False) -> Any:
    """Decide whether a lens can show points: those in front of the camera or, for fisheye lenses, beside it.

    Args:
        points_camera: Points in camera coordinates. (..., 3).
        is_fisheye: Whether the projection is equidistant instead of perspective: one flag, or one per point.
            (...).

    Returns:
        True for points with z > `MIN_DEPTH` or, for fisheye lenses, whose angle to the optical axis has a
        cosine above `MIN_FISHEYE_COSINE`. (...), bool.
    """
    depth: Any = points_camera[..., 2]
    in_front = depth > MIN_DEPTH
    if not LensModel(None, is_fisheye).has_fisheye:
        return in_front
    length = namespace(points_camera).sqrt((points_camera**2).sum(-1))  # type: ignore[operator]
    inside = (length > MIN_DEPTH) & (depth > MIN_FISHEYE_COSINE * length)
    return (is_fisheye & inside) | (in_front & inside)


def project(
    points_camera: AnyArray, focal: Any, lens: LensModel | None = None, min_depth: float | None = None
) -> AnyArray:
    """Project points with a camera.

    Args:
        points_camera: Points in camera coordinates. (..., 3).
        focal: Focal length in pixels, broadcastable with (..., 2).
        lens: Projection and distortion, shared by all points or per point; None for a pinhole camera without
            distortion.
        min_depth: Lower bound of the depth in the perspective division; None for no bound.

    Returns:
        Pixel coordinates relative to the principal point, x then y. (..., 2).
    """
    if lens is None:
        return perspective(points_camera, focal, min_depth)
    return focal * distort(to_plane(points_camera, lens.is_fisheye, min_depth), lens.distortion)


def unproject(xy: AnyArray, focal: Any, lens: LensModel | None = None) -> AnyArray:
    """Compute the undistorted viewing rays of pixels.

    Args:
        xy: Pixel coordinates relative to the principal point, x then y. (..., 2).
        focal: Focal length in pixels, broadcastable with (..., 2).
        lens: Projection and distortion, shared by all pixels or per pixel; None for a pinhole camera without
            distortion.

    Returns:
        Rays in camera coordinates: points with z = 1 or, for fisheye lenses, unit vectors. (..., 3).
    """
    plane: Any = xy / focal
    if lens is None:
        return _at_depth_one(plane)
    plane = undistort(plane, lens.distortion)
    if not lens.has_fisheye:
        return _at_depth_one(plane)
    xp = namespace(plane)
    angle = _length(plane)
    rays = xp.concatenate([plane * xp.sinc(angle / np.pi), xp.cos(angle)], -1)
    if isinstance(lens.is_fisheye, bool):
        return rays
    return xp.where(lens.is_fisheye[..., None], rays, _at_depth_one(plane))


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


def equidistant_jacobian(points_camera: AnyArray) -> AnyArray:
    """Compute the derivative of `equidistant` with respect to the point.

    With u = (x, y), r = |u|, l = |(x, y, z)| and the ratio a = theta / r, the derivative with respect to u is
    a I + b u u^T with b = (z / l^2 - a) / r^2, and with respect to z it is -u / l^2. Near the optical axis, b
    is -2 / (3 z^3).

    Args:
        points_camera: Points in camera coordinates. (..., 3).

    Returns:
        Jacobians; rows are the coordinates on the plane, columns x, y and z. (..., 2, 3).
    """
    xp, radius = namespace(points_camera), _axis_distance(points_camera)[..., 0]
    x, y, z = points_camera[..., 0], points_camera[..., 1], points_camera[..., 2]
    square = x * x + y * y + z * z
    ratio = xp.arctan2(radius, z) / radius
    is_near_axis = (radius < SMALL_RATIO * abs(z)) & (z > 0)
    series = -2 / (3 * xp.where(is_near_axis, z, xp.ones_like(z)) ** 3)
    bend = xp.where(is_near_axis, series, (z / square - ratio) / radius**2)
    return _rows(
        (ratio + bend * x * x, bend * x * y, -x / square), (bend * x * y, ratio + bend * y * y, -y / square)
    )


def _axis_distance(points: Any) -> Any:
    """Compute the distance of points from the optical axis, bounded away from zero. (..., 3) -> (..., 1)."""
    xp, depth = namespace(points), points[..., 2:]
    smallest = 1e-18 * depth**2 + 1e-36
    return xp.sqrt(xp.maximum(squared_radius(points[..., :2]), smallest))


def _length(plane: Any) -> Any:
    """Compute the length of vectors; differentiable at zero. (..., 2) -> (..., 1)."""
    return namespace(plane).sqrt(squared_radius(plane) + 1e-36)


def _at_depth_one(plane: Any) -> Any:
    """Append z = 1 to points on the plane. (..., 2) -> (..., 3)."""
    xp = namespace(plane)
    return xp.concatenate([plane, xp.ones_like(plane[..., :1])], -1)


def _rows(first: Sequence[Any], second: Sequence[Any]) -> Any:
    """Build 2 x N matrices from the N entries of each row. N arrays (...) per row -> (..., 2, N)."""
    stacked = namespace(first[0]).stack([*first, *second], -1)
    return stacked.reshape(*stacked.shape[:-1], 2, len(first))
