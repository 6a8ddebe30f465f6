"""Epipolar geometry of two views."""

from __future__ import annotations

import numpy as np

from nope_splat.utils.typing import Array


def sampson_errors(
    first: Array, second: Array, matrix: Array, scale_first: float = 1.0, scale_second: float = 1.0
) -> Array:
    """Compute Sampson errors: distances to the nearest matches that fit, to first order.

    See Hartley and Zisserman, section 11.4.

    Args:
        first: Homogeneous coordinates in the first image. (n, 3).
        second: Homogeneous coordinates in the second image. (n, 3).
        matrix: Matrix M with second^T M first = 0, such as a fundamental or essential matrix. (3, 3).
        scale_first: Pixels per unit of the coordinates in the first image, such as the focal length of rays.
        scale_second: The same of the second image.

    Returns:
        Pixels. (n,).
    """
    lines_second, lines_first = first @ matrix.T, second @ matrix
    residual = np.einsum("ni,ni->n", second, lines_second)
    # Squared gradient of the residual with respect to the four image coordinates.
    slope = (lines_second[:, :2] ** 2).sum(1) / scale_second**2
    slope += (lines_first[:, :2] ** 2).sum(1) / scale_first**2
    return np.abs(residual) / np.sqrt(slope + 1e-300)


def essential_matrix(T_second_first: Array) -> Array:
    """Compute the essential matrix E with second^T E first = 0 of rays in camera coordinates. (3, 3).

    Args:
        T_second_first: Transform from the first to the second camera. (4, 4).
    """
    x, y, z = T_second_first[:3, 3]
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T_second_first[:3, :3]
