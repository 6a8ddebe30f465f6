"""The pinhole camera that all photographs of a folder share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SharedPinhole:
    """One pinhole camera for every photograph; the principal point is measured from the image's centre.

    Pixels count from the upper left corner of the image; the centre of the first pixel is (0.5, 0.5).
    """

    focal: float
    """Focal length in pixels of the full-resolution photographs."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image centre, (x, y) in pixels of the full-resolution photographs."""

    def principal_points(self, sizes: NDArray[np.int64]) -> Array:
        """Principal points of photographs of the given sizes.

        Args:
            sizes: Width and height in pixels. (..., 2).

        Returns:
            Pixel coordinates. (..., 2).
        """
        return np.asarray(sizes, dtype=np.float64) / 2 + np.asarray(self.offset)

    def project(self, points_camera: Array, sizes: NDArray[np.int64]) -> Array:
        """Project points in front of the camera.

        Args:
            points_camera: Points in camera coordinates (OpenCV axes), z > 0. (..., 3).
            sizes: Width and height of the photograph of each point. (..., 2).

        Returns:
            Pixel coordinates. (..., 2).
        """
        return self.focal * points_camera[..., :2] / points_camera[..., 2:] + self.principal_points(sizes)

    def unproject(self, xy: Array, sizes: NDArray[np.int64]) -> Array:
        """Rays through pixels, at depth one.

        Args:
            xy: Pixel coordinates. (..., 2).
            sizes: Width and height of the photograph of each pixel. (..., 2).

        Returns:
            Points in camera coordinates (OpenCV axes) with z = 1. (..., 3).
        """
        plane = (xy - self.principal_points(sizes)) / self.focal
        return np.concatenate([plane, np.ones_like(plane[..., :1])], axis=-1)
