"""Epipolar geometry of two views: Sampson errors and essential matrices."""

from __future__ import annotations

import numpy as np

from nope_splat.utils.typing import Array


def sampson_errors(
    first: Array, second: Array, matrix: Array, scale_first: float = 1.0, scale_second: float = 1.0
) -> Array:
    """Compute the Sampson error of each match, a first-order approximation of the reprojection error.

    The error approximates how far the two points of a match must move to satisfy the epipolar constraint: the
    root of the sum of their squared displacements in both images (Hartley and Zisserman, section 11.4).

    Args:
        first: Homogeneous coordinates in the first image. (n, 3).
        second: Homogeneous coordinates of the matching points in the second image. (n, 3).
        matrix: Matrix M with second^T M first = 0, such as a fundamental or essential matrix. (3, 3).
        scale_first: Pixels per unit of `first`: 1 if `first` is in pixels, or the focal length in pixels if
            `first` contains rays at depth one.
        scale_second: Pixels per unit of `second`, see `scale_first`.

    Returns:
        Sampson errors in pixels. (n,).
    """
    lines_second, lines_first = first @ matrix.T, second @ matrix
    residual = np.einsum("ni,ni->n", second, lines_second)
    # Squared gradient of the residual with respect to the four image coordinates.
    slope = (lines_second[:, :2] ** 2).sum(1) / scale_second**2
    slope += (lines_first[:, :2] ** 2).sum(1) / scale_first**2
    return np.abs(residual) / np.sqrt(slope + 1e-300)


def ray_errors(first: Array, second: Array, matrix: Array, scale_first: float, scale_second: float) -> Array:
    """Compute the absolute values of `signed_ray_errors` (same arguments). (n,)."""
    return np.abs(signed_ray_errors(first, second, matrix, scale_first, scale_second))


def signed_ray_errors(
    first: Array, second: Array, matrix: Array, scale_first: float, scale_second: float
) -> Array:
    """Compute the Sampson errors of matches for viewing rays of wide-angle lenses, with sign.

    The error is measured on the unit sphere, so that rays beside and behind a camera are treated like all
    others.

    Args:
        first: Viewing rays in the first camera, of any length. (n, 3).
        second: Viewing rays of the matching points in the second camera, of any length. (n, 3).
        matrix: Essential matrix E with second^T E first = 0. (3, 3).
        scale_first: Pixels per radian of the first camera: the focal length of a fisheye lens.
        scale_second: Pixels per radian of the second camera.

    Returns:
        Sampson errors in pixels. (n,).
    """
    first, second = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (first, second))
    normals_second, normals_first = first @ matrix.T, second @ matrix
    residual = np.einsum("ni,ni->n", second, normals_second)
    # Squared gradient of the residual on the sphere: without its component along the ray.
    slope = ((normals_second**2).sum(1) - residual**2) / scale_second**2
    slope += ((normals_first**2).sum(1) - residual**2) / scale_first**2
    return residual / np.sqrt(np.maximum(slope, 1e-300))


def essential_matrix(T_second_first: Array) -> Array:
    """Compute the essential matrix of two cameras.

    Args:
        T_second_first: Transform from the first to the second camera's coordinates, with rotation R and
            translation t. (4, 4).

    Returns:
        The matrix E = [t]x R; matching rays x1 and x2 in camera coordinates satisfy x2^T E x1 = 0. (3, 3).
    """
    x, y, z = T_second_first[:3, 3]
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T_second_first[:3, :3]
