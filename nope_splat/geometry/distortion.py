"""Lens distortion: the polynomial, its inverse and its derivatives, for NumPy arrays and PyTorch tensors.

On a plane on which a lens without distortion projects a viewing ray to the point p = (x, y) (see
`geometry.projection`), distortion maps p to

    d(p) = (1 + k1 s + k2 s^2 + k3 s^3 + k4 s^4) p + t(p),   s = |p|^2,
    t(p) = (2 p1 x y + p2 (s + 2 x^2),  p1 (s + 2 y^2) + 2 p2 x y).

The six coefficients are in nerfstudio's order: (k1, k2, k3, k4, p1, p2). With a perspective projection, k1,
k2, p1 and p2 are COLMAP's and OpenCV's OPENCV model, and k1 and k2 alone COLMAP's RADIAL. With an equidistant
projection, where |p| is the angle between ray and optical axis, k1 to k4 are OPENCV_FISHEYE. Only this module
implements the polynomial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nope_splat.geometry.rigid import rotate
from nope_splat.utils.arrays import AnyArray, namespace

NUM_TERMS = 6
"""Number of distortion coefficients: k1, k2, k3, k4, p1, p2."""
NEWTON_STEPS = 8
"""Number of Newton steps of `undistort`. Newton's method converges quadratically, so eight steps suffice for
real lenses."""
TANGENTIAL_STEPS = 4
"""Number of further Newton steps of `undistort` with tangential terms. These terms are small, so few steps
suffice."""
MIN_SLOPE = 0.2
"""Lower bound, in a Newton step, of the derivative of the distorted radius with respect to the undistorted
radius; it avoids division by zero."""


def radial_scale(square: AnyArray, terms: AnyArray | Sequence[float]) -> AnyArray:
    """Compute the ratio of the distorted to the undistorted radius.

    Args:
        square: Squared undistorted radii s. (..., 1).
        terms: Distortion coefficients, shared or per point. (6,) or (..., 6).

    Returns:
        1 + k1 s + k2 s^2 + k3 s^3 + k4 s^4. (..., 1).
    """
    k1, k2, k3, k4, _, _ = split_terms(terms)
    return 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))


def radial_slope(square: AnyArray, terms: AnyArray | Sequence[float]) -> AnyArray:
    """Compute the derivative of the distorted radius with respect to the undistorted radius.

    Args:
        square: Squared undistorted radii s. (..., 1).
        terms: Distortion coefficients, shared or per point. (6,) or (..., 6).

    Returns:
        1 + 3 k1 s + 5 k2 s^2 + 7 k3 s^3 + 9 k4 s^4. (..., 1).
    """
    k1, k2, k3, k4, _, _ = split_terms(terms)
    return 1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4)))


def distort(plane: AnyArray, terms: AnyArray | Sequence[float]) -> AnyArray:
    """Apply distortion to points on the plane.

    Args:
        plane: Undistorted points p. (..., 2).
        terms: Distortion coefficients, shared by all points or per point. (6,) or (..., 6).

    Returns:
        Distorted points d(p). (..., 2).
    """
    square = squared_radius(plane)
    return plane * radial_scale(square, terms) + _tangential_shift(plane, square, terms)


def undistort(plane: AnyArray, terms: AnyArray | Sequence[float]) -> AnyArray:
    """Remove distortion: the inverse of `distort`, differentiable for PyTorch tensors.

    Without tangential terms, the undistorted point that belongs to a distorted point p_d is q p_d, where the
    scalar q is the root of

        h(q) = q (1 + k1 t q^2 + k2 t^2 q^4 + k3 t^3 q^6 + k4 t^4 q^8) - 1,   t = |p_d|^2.

    Newton's method finds q, starting from q = 1. With tangential terms, Newton steps in both coordinates
    follow. Only the last Newton step is differentiated, with the derivative of the polynomial held constant.
    The implicit function theorem gives the same derivatives.

    Args:
        plane: Distorted points. (..., 2).
        terms: Distortion coefficients, shared by all points or per point. (6,) or (..., 6).

    Returns:
        Undistorted points. (..., 2). Values are undefined for points with a radius that the distortion model
        never reaches.
    """
    if not isinstance(plane, Tensor) and not np.any(terms):
        return plane
    xp, square = namespace(plane), squared_radius(plane)
    values: Any = terms if isinstance(terms, Tensor) else np.asarray(terms, dtype=np.float64)
    powers = xp.concatenate([square, square**2, square**3, square**4, square * 0, square * 0], -1)
    scaled: Any = values * powers

    def error(q: Any) -> Any:
        return q * radial_scale(q**2, scaled) - 1

    def slope(q: Any) -> Any:
        return radial_slope(q**2, scaled).clip(MIN_SLOPE)

    with torch.no_grad():
        q = xp.ones_like(square)
        for _ in range(NEWTON_STEPS):
            q = q - error(q) / slope(q)
        last_slope = slope(q)
    if not _has_tangential(values):
        return plane * (q - error(q) / last_slope)
    with torch.no_grad():
        undistorted: Any = plane * q
        for _ in range(TANGENTIAL_STEPS):
            undistorted = undistorted - _solve_2x2(
                distortion_jacobian(undistorted, terms), distort(undistorted, terms) - plane
            )
        jacobian = distortion_jacobian(undistorted, terms)
    return undistorted - _solve_2x2(jacobian, distort(undistorted, terms) - plane)


def distortion_jacobian(plane: AnyArray, terms: AnyArray | Sequence[float]) -> AnyArray:
    """Compute the derivative of `distort` with respect to the point p.

    With s = |p|^2, the derivative of the radial part is

        (1 + k1 s + k2 s^2 + k3 s^3 + k4 s^4) I + (2 k1 + 4 k2 s + 6 k3 s^2 + 8 k4 s^3) p p^T,

    and that of the tangential part [[2 p1 y + 6 p2 x, m], [m, 6 p1 y + 2 p2 x]] with m = 2 p1 x + 2 p2 y.

    Args:
        plane: Undistorted points p. (..., 2).
        terms: Distortion coefficients, shared by all points or per point. (6,) or (..., 6).

    Returns:
        Jacobians; rows are the coordinates of the distorted point, columns those of p. (..., 2, 2).
    """
    k1, k2, k3, k4, p1, p2 = split_terms(terms)
    square = squared_radius(plane)
    u, v = plane[..., :1], plane[..., 1:]
    scale = radial_scale(square, terms)
    slope = 2 * k1 + square * (4 * k2 + square * (6 * k3 + square * 8 * k4))
    mixed = slope * u * v + 2 * (p1 * u + p2 * v)
    by_u = scale + slope * u * u + 2 * p1 * v + 6 * p2 * u
    by_v = scale + slope * v * v + 6 * p1 * v + 2 * p2 * u
    entries = namespace(plane).concatenate([by_u, mixed, mixed, by_v], -1)
    return entries.reshape(*plane.shape, 2)


def distortion_term_jacobian(plane: AnyArray) -> AnyArray:
    """Compute the derivatives of `distort` with respect to the coefficients.

    With s = |p|^2, they are s p, s^2 p, s^3 p and s^4 p for k1 to k4, (2 x y, s + 2 y^2) for p1, and
    (s + 2 x^2, 2 x y) for p2.

    Args:
        plane: Undistorted points p = (x, y). (..., 2).

    Returns:
        Jacobians; rows are the coordinates of the distorted point, columns k1, k2, k3, k4, p1 and p2.
        (..., 2, 6).
    """
    xp, square = namespace(plane), squared_radius(plane)
    powers = xp.concatenate([square, square**2, square**3, square**4], -1)
    radial = plane[..., None] * powers[..., None, :]
    u, v = plane[..., :1], plane[..., 1:]
    twice = 2 * u * v
    by_p1 = xp.concatenate([twice, square + 2 * v * v], -1)
    by_p2 = xp.concatenate([square + 2 * u * u, twice], -1)
    return xp.concatenate([radial, by_p1[..., None], by_p2[..., None]], -1)


def turn_distortion(terms: AnyArray, turns: AnyArray) -> AnyArray:
    """Convert distortion coefficients from pixels of a sensor to pixels of images that were turned upright.

    The tangential shift is s a + 2 (a . p) p with the vector a = (p2, p1), which turns with the image. Radial
    coefficients do not change.

    Args:
        terms: Coefficients k1, k2, k3, k4, p1 and p2. (..., 6).
        turns: Rotations and mirrorings from sensor to upright pixels; zeros if unknown, which gives no
            tangential distortion. (..., 2, 2).

    Returns:
        Coefficients for upright pixels. (..., 6).
    """
    vectors = rotate(turns, terms[..., [5, 4]])
    return namespace(terms).concatenate([terms[..., :4], vectors[..., [1, 0]]], -1)


def squared_radius(plane: AnyArray) -> AnyArray:
    """Compute the squared distance of points on the plane from the optical axis. (..., 2) -> (..., 1)."""
    square: Any = plane**2
    return square.sum(-1)[..., None]


def split_terms(terms: NDArray[Any] | Tensor | Sequence[float]) -> tuple[Any, ...]:
    """Split (k1, k2, k3, k4, p1, p2), keeping the last axis. (..., 6) -> six arrays (..., 1)."""
    values = terms if isinstance(terms, Tensor) else np.asarray(terms, dtype=np.float64)
    return tuple(values[..., column : column + 1] for column in range(NUM_TERMS))


def _tangential_shift(plane: Any, square: Any, terms: Any) -> Any:
    """Compute the tangential part t(p) of the distortion. (..., 2), (..., 1), (..., 6) -> (..., 2)."""
    *_, p1, p2 = split_terms(terms)
    u, v = plane[..., :1], plane[..., 1:]
    twice = 2 * u * v
    along_u = p1 * twice + p2 * (square + 2 * u * u)
    along_v = p1 * (square + 2 * v * v) + p2 * twice
    return namespace(plane).concatenate([along_u, along_v], -1)


def _has_tangential(terms: Any) -> bool:
    """Return whether any tangential coefficient is not zero, or is optimized. (..., 6) -> bool."""
    return (isinstance(terms, Tensor) and terms.requires_grad) or bool((terms[..., 4:] != 0).any())


def _solve_2x2(matrices: Any, vectors: Any) -> Any:
    """Solve 2 x 2 linear systems. (..., 2, 2), (..., 2) -> (..., 2)."""
    a, b = matrices[..., 0, 0], matrices[..., 0, 1]
    c, d = matrices[..., 1, 0], matrices[..., 1, 1]
    u, v = vectors[..., 0], vectors[..., 1]
    solution = namespace(vectors).stack([d * u - b * v, a * v - c * u], -1)
    return solution / (a * d - b * c)[..., None]
