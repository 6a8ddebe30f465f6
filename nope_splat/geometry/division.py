"""Division model of strong lens distortion, for wide-angle lenses of unknown focal length.

A pixel at distance r from the image center, in units of half the image diagonal, has the homogeneous
coordinates

    w = (x, y, 1 + c r^2),

where x and y are relative to the image center and c is the coefficient of the lens (Fitzgibbon, "Simultaneous
Linear Estimation of Multiple View Geometry and Lens Distortion", 2001). The epipolar constraint is linear in
w, also for pixels that show points beside the camera (1 + c r^2 <= 0). A fisheye lens with a field of view of
120 degrees across the diagonal has c = -0.4, one with 180 degrees c = -1.
"""

from __future__ import annotations

import numpy as np

from nope_splat.utils.typing import Array


def homogeneous_pixels(xy: Array, size: Array, coefficient: float) -> Array:
    """Compute homogeneous coordinates of pixels in which the lens distortion is removed.

    Args:
        xy: Pixel coordinates. (n, 2).
        size: Width and height of the image in pixels. (2,).
        coefficient: Coefficient c of the lens; zero for no distortion.

    Returns:
        Homogeneous pixel coordinates; with c = 0, the pixel coordinates followed by one. (n, 3).
    """
    centered, scale = _division(xy, size, coefficient)
    return np.concatenate([centered + scale * np.asarray(size) / 2, scale], axis=1)


def homogeneous_jacobian(xy: Array, size: Array, coefficient: float) -> Array:
    """Compute the derivatives of `homogeneous_pixels` with respect to the pixel coordinates.

    Args:
        xy: Pixel coordinates. (n, 2).
        size: Width and height of the image in pixels. (2,).
        coefficient: Coefficient c of the lens.

    Returns:
        Jacobians; rows are the homogeneous coordinates, columns x and y. (n, 3, 2).
    """
    center = np.asarray(size) / 2
    by_scale = 8 * coefficient * (xy - center) / (np.asarray(size) ** 2).sum()
    rows = np.concatenate([np.broadcast_to(center, xy.shape), np.ones((len(xy), 1))], axis=1)
    return np.eye(3)[:, :2] + rows[:, :, None] * by_scale[:, None, :]


def division_errors(first: Array, second: Array, jacobians: tuple[Array, Array], matrix: Array) -> Array:
    """Compute the Sampson errors of matches between images with division distortion.

    Args:
        first: Homogeneous pixels in the first image. (n, 3).
        second: Homogeneous pixels of the matching points in the second image. (n, 3).
        jacobians: Derivatives of `first` and `second` with respect to the pixels of their images (see
            `homogeneous_jacobian`). (n, 3, 2) each.
        matrix: Fundamental matrices F with second^T F first = 0. (..., 3, 3).

    Returns:
        Errors in pixels. (..., n).
    """
    lines_second, lines_first = first @ np.swapaxes(matrix, -1, -2), second @ matrix
    residual = (second * lines_second).sum(-1)
    slopes = (
        (np.einsum("...ni,nij->...nj", lines, jacobian) ** 2).sum(-1)
        for lines, jacobian in zip((lines_first, lines_second), jacobians, strict=True)
    )
    return np.abs(residual) / np.sqrt(sum(slopes, 1e-300))


def pinhole_pixels(xy: Array, size: Array, coefficient: float) -> Array:
    """Compute where a pinhole camera with the same focal length would see the points of pixels.

    Args:
        xy: Pixel coordinates. (n, 2).
        size: Width and height of the image in pixels. (2,).
        coefficient: Coefficient c of the lens.

    Returns:
        Pixel coordinates relative to the image center; NaN for points that a pinhole camera cannot show, or
        only far outside the image. (n, 2).
    """
    centered, scale = _division(xy, size, coefficient)
    return centered / np.where(scale > MIN_SCALE, scale, np.nan)


def fisheye_terms(focal: float, size: Array, coefficient: float) -> Array:
    """Compute the coefficients k1 and k2 of the fisheye lens that is most similar to a division model.

    Args:
        focal: Focal length in pixels.
        size: Width and height of the image in pixels. (2,).
        coefficient: Coefficient c of the division model.

    Returns:
        k1 and k2 (see `geometry.distortion`) of an equidistant projection with the same focal length. (2,).
    """
    corner = np.linalg.norm(size) / 2
    radius = np.linspace(0.05, 1.0, 20)
    angle = np.arctan2(corner * radius, focal * (1 + coefficient * radius**2))
    system = np.stack([angle**3, angle**5], axis=1)
    return np.linalg.lstsq(system, corner * radius / focal - angle, rcond=None)[0]


MIN_SCALE = 0.2
"""Smallest 1 + c r^2 at which `pinhole_pixels` converts a pixel: pixels move outward by a factor of five."""


def _division(xy: Array, size: Array, coefficient: float) -> tuple[Array, Array]:
    """Return pixels relative to the image center (n, 2), and 1 + c r^2 of each pixel (n, 1)."""
    centered = xy - np.asarray(size) / 2
    square = 4 * (centered**2).sum(1, keepdims=True) / (np.asarray(size, np.float64) ** 2).sum()
    return centered, 1 + coefficient * square
