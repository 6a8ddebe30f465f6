"""Division model of strong lens distortion, for wide-angle lenses of unknown focal length.

A pixel with the coordinates (x, y), relative to the image center and in units of half the image diagonal, has
the homogeneous coordinates

    w = (x, y, 1 + c (x^2 + y^2)),

where c is the coefficient of the lens (Fitzgibbon, "Simultaneous Linear Estimation of Multiple View Geometry
and Lens Distortion", 2001). The epipolar constraint is linear in w, also for pixels that show points beside
the camera (third coordinate below zero). A fisheye lens with a field of view of 120 degrees across the
diagonal has c = -0.4, one with 180 degrees c = -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.projection import perspective
from nope_splat.utils.typing import Array

MIN_SCALE = 0.2
"""Smallest third coordinate of w at which `DivisionLens.pinhole_pixels` converts a pixel; it moves outward by
a factor of five."""


@dataclass(frozen=True)
class DivisionLens:
    """Lens that is described by the division model, for images of one size."""

    size: tuple[float, float]
    """Width and height of the images in pixels."""
    coefficient: float
    """Coefficient c; zero for a lens without distortion, negative for wide-angle lenses."""

    @property
    def half_diagonal(self) -> float:
        """Half the image diagonal in pixels."""
        return float(np.linalg.norm(self.size)) / 2

    @property
    def pixels_from_homogeneous(self) -> Array:
        """Matrix that converts w to homogeneous pixel coordinates without distortion. (3, 3)."""
        (width, height), scale = self.size, self.half_diagonal
        return np.array([[scale, 0, width / 2], [0, scale, height / 2], [0, 0, 1]])

    def homogeneous(self, xy: Array) -> Array:
        """Compute the homogeneous coordinates w of pixels. (n, 2) -> (n, 3)."""
        relative = self._relative(xy)
        scale = 1 + self.coefficient * (relative**2).sum(1, keepdims=True)
        return np.concatenate([relative, scale], axis=1)

    def gradient(self, xy: Array) -> Array:
        """Compute the derivatives of the third coordinate of w by the first two. (n, 2) -> (n, 2)."""
        return 2 * self.coefficient * self._relative(xy)

    def pinhole_pixels(self, xy: Array) -> Array:
        """Compute where a pinhole camera with the same focal length would see the points of pixels.

        Args:
            xy: Pixel coordinates. (n, 2).

        Returns:
            Pixel coordinates relative to the image center; NaN for points that a pinhole camera cannot show,
            or only far outside the image. (n, 2).
        """
        w = self.homogeneous(xy)
        w[w[:, 2] <= MIN_SCALE, 2] = np.nan
        return perspective(w, self.half_diagonal)

    def fisheye_terms(self, focal: float) -> Array:
        """Compute the distortion k1 and k2 of the fisheye lens that is most similar to this lens.

        Args:
            focal: Focal length of both lenses in pixels.

        Returns:
            k1 and k2 (see `geometry.distortion`) for an equidistant projection. (2,).
        """
        radius = np.linspace(0.05, 1.0, 20)
        focal_ratio = focal / self.half_diagonal
        angle = np.arctan2(radius, focal_ratio * (1 + self.coefficient * radius**2))
        system = np.stack([angle**3, angle**5], axis=1)
        return np.linalg.lstsq(system, radius / focal_ratio - angle, rcond=None)[0]

    def _relative(self, xy: Array) -> Array:
        """Convert pixels to coordinates relative to the center, in half diagonals. (n, 2) -> (n, 2)."""
        return (xy - np.array(self.size) / 2) / self.half_diagonal


def division_errors(
    points: tuple[Array, Array], gradients: tuple[Array, Array], matrix: Array, scales: tuple[float, float]
) -> Array:
    """Compute the Sampson errors of matches between images with division distortion.

    Args:
        points: Homogeneous coordinates w of the matches in the first and in the second image. (n, 3) each.
        gradients: Derivatives of the third coordinates, from `DivisionLens.gradient`. (n, 2) each.
        matrix: Matrices F with w_second^T F w_first = 0. (..., 3, 3).
        scales: Pixels per unit of `points` in both images.

    Returns:
        Errors in pixels. (..., n).
    """
    lines_second, lines_first = points[0] @ np.swapaxes(matrix, -1, -2), points[1] @ matrix
    residual = np.einsum("ni,...ni->...n", points[1], lines_second)
    slope = np.full(residual.shape, 1e-300)
    for lines, gradient, scale in zip((lines_first, lines_second), gradients, scales, strict=True):
        for axis in (0, 1):
            slope += ((lines[..., axis] + lines[..., 2] * gradient[:, axis]) / scale) ** 2
    return np.abs(residual) / np.sqrt(slope)
