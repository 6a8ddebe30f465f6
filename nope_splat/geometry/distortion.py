"""Radial distortion: the polynomial, its inverse and its derivatives, for NumPy arrays and PyTorch tensors.

On the plane at depth one, distortion maps the projection p of a pinhole camera to

    d(p) = (1 + k1 s + k2 s^2) p,   s = |p|^2,

which is OpenCV's model and COLMAP's RADIAL. Only this module implements the polynomial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nope_splat.utils.arrays import AnyArray, namespace

NEWTON_STEPS = 8
"""Number of Newton steps of `undistort`. Newton's method converges quadratically, so eight steps suffice for
real lenses."""
MIN_SLOPE = 0.2
"""Lower bound, in a Newton step, of the derivative of the distorted radius with respect to the undistorted
radius; it avoids division by zero."""


def radial_scale(square: AnyArray, k1: Any, k2: Any) -> AnyArray:
    """Compute the ratio of the distorted to the undistorted radius.

    Args:
        square: Squared undistorted radii s at depth one. (...).
        k1: First distortion coefficient, broadcastable with `square`.
        k2: Second distortion coefficient, broadcastable with `square`.

    Returns:
        1 + k1 s + k2 s^2. (...).
    """
    return 1 + square * (k1 + square * k2)


def radial_slope(square: AnyArray, k1: Any, k2: Any) -> AnyArray:
    """Compute the derivative of the distorted radius with respect to the undistorted radius.

    Args:
        square: Squared undistorted radii s at depth one. (...).
        k1: First distortion coefficient, broadcastable with `square`.
        k2: Second distortion coefficient, broadcastable with `square`.

    Returns:
        1 + 3 k1 s + 5 k2 s^2. (...).
    """
    return 1 + square * (3 * k1 + square * 5 * k2)


def distort(plane: AnyArray, radial: AnyArray | Sequence[float]) -> AnyArray:
    """Apply radial distortion on the plane at depth one.

    Args:
        plane: Undistorted points at depth one. (..., 2).
        radial: k1 and k2, shared by all points or per point. (2,) or (..., 2).

    Returns:
        Distorted points. (..., 2).
    """
    return plane * radial_scale(squared_radius(plane), *radial_terms(radial))


def undistort(plane: AnyArray, radial: AnyArray | Sequence[float]) -> AnyArray:
    """Remove radial distortion: the inverse of `distort`, differentiable for PyTorch tensors.

    The undistorted point that belongs to a distorted point p_d is q p_d, where the scalar q is the root of

        h(q) = q (1 + k1 t q^2 + k2 t^2 q^4) - 1,   t = |p_d|^2.

    Newton's method finds q, starting from q = 1. Only the last Newton step is differentiated, with the slope
    dh/dq held constant. The implicit function theorem gives the same derivatives of q.

    Args:
        plane: Distorted points at depth one. (..., 2).
        radial: k1 and k2, shared by all points or per point. (2,) or (..., 2).

    Returns:
        Undistorted points. (..., 2). Values are undefined for points with a radius that the distortion model
        never reaches.
    """
    if not isinstance(plane, Tensor) and not np.any(radial):
        return plane
    square, (k1, k2) = squared_radius(plane), radial_terms(radial)
    k1, k2 = square * k1, square**2 * k2

    def error(q: Any) -> Any:
        return q * radial_scale(q**2, k1, k2) - 1

    def slope(q: Any) -> Any:
        return radial_slope(q**2, k1, k2).clip(MIN_SLOPE)

    with torch.no_grad():
        q = namespace(square).ones_like(square)
        for _ in range(NEWTON_STEPS):
            q = q - error(q) / slope(q)
        last_slope = slope(q)
    return plane * (q - error(q) / last_slope)


def distortion_jacobian(plane: AnyArray, radial: AnyArray | Sequence[float]) -> AnyArray:
    """Compute the derivative of `distort` with respect to the point p.

    The derivative is (1 + k1 s + k2 s^2) I + (2 k1 + 4 k2 s) p p^T with s = |p|^2.

    Args:
        plane: Undistorted points p at depth one. (..., 2).
        radial: k1 and k2, shared by all points or per point. (2,) or (..., 2).

    Returns:
        Jacobians; rows are the coordinates of the distorted point, columns those of p. (..., 2, 2).
    """
    k1, k2 = radial_terms(radial)
    square = squared_radius(plane)
    u, v = plane[..., :1], plane[..., 1:]
    scale, slope = radial_scale(square, k1, k2), 2 * k1 + 4 * k2 * square
    mixed = slope * u * v
    xp = namespace(plane)
    entries = xp.concatenate([scale + slope * u * u, mixed, mixed, scale + slope * v * v], -1)
    return entries.reshape(*plane.shape, 2)


def radial_term_jacobian(plane: AnyArray, square: AnyArray | None = None) -> AnyArray:
    """Compute the derivatives of `distort` with respect to k1 and k2, which are s p and s^2 p with s = |p|^2.

    Args:
        plane: Undistorted points p at depth one, or multiples of p if `square` is given; the Jacobians are
            then multiplied by the same factors. (..., 2).
        square: Squared radii s; None to compute them from `plane`. (..., 1).

    Returns:
        Jacobians; rows are the coordinates of the distorted point, columns k1 and k2. (..., 2, 2).
    """
    square = squared_radius(plane) if square is None else square
    return plane[..., None] * namespace(plane).concatenate([square, square**2], -1)[..., None, :]


def squared_radius(plane: AnyArray) -> AnyArray:
    """Compute the squared distance of points at depth one from the optical axis. (..., 2) -> (..., 1)."""
    square: Any = plane**2
    return square.sum(-1)[..., None]


def radial_terms(radial: NDArray[Any] | Tensor | Sequence[float]) -> tuple[Any, Any]:
    """Split (k1, k2) into k1 and k2, keeping the last axis. (..., 2) -> (..., 1), (..., 1)."""
    terms = radial if isinstance(radial, Tensor) else np.asarray(radial, dtype=np.float64)
    return terms[..., :1], terms[..., 1:]
