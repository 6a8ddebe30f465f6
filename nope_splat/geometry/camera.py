"""Camera intrinsics shared by several images, and reprojection errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.distortion import distort
from nope_splat.geometry.projection import MIN_DEPTH, perspective, unproject
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class SharedPinhole:
    """Intrinsics of a pinhole camera with radial distortion, shared by all images of the camera.

    The principal point is relative to the image center. Distortion is the same as in OpenCV and in COLMAP's
    RADIAL model: a point p = (x, y) on the plane at depth one moves to (1 + k1 r^2 + k2 r^4) p with
    r = |p|.

    Pixel coordinates start at the upper left corner of the image; the center of the first pixel is (0.5,
    0.5).

    Example:
        >>> camera = SharedPinhole(focal=500.0)
        >>> camera.project(np.array([0.2, 0.0, 1.0]), np.array([640, 480]))
        array([420., 240.])
    """

    focal: float
    """Focal length in pixels of the full-resolution images."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image center, (x, y) in pixels of the full-resolution images as the sensor stores
    them; see `for_upright`."""
    radial: tuple[float, float] = (0.0, 0.0)
    """Radial distortion coefficients k1 and k2 of OpenCV's model; zeros for no distortion."""

    def for_upright(self, upright_from_sensor: Array) -> SharedPinhole:
        """Convert the camera from the pixels of its sensor to the pixels of an upright image.

        Args:
            upright_from_sensor: Rotation and mirroring by which the image was made upright, for coordinates
                relative to the image center; zeros if unknown, which gives a centered principal point.
                (2, 2).
        """
        x, y = (upright_from_sensor @ np.asarray(self.offset)).tolist()
        return replace(self, offset=(x, y))

    def principal_points(self, sizes: NDArray[np.int64]) -> Array:
        """Compute the principal points of images of the given sizes.

        Args:
            sizes: Width and height in pixels. (..., 2).

        Returns:
            Principal points in pixels, x then y. (..., 2).
        """
        return np.asarray(sizes, dtype=np.float64) / 2 + np.asarray(self.offset)

    def project(self, points_camera: Array, sizes: NDArray[np.int64]) -> Array:
        """Project points in front of the camera to pixels, with distortion.

        Args:
            points_camera: Points in camera coordinates (OpenCV axes), z > 0. (..., 3).
            sizes: Width and height, in pixels, of the image into which each point is projected. (..., 2).

        Returns:
            Pixel coordinates, x then y. (..., 2).
        """
        plane = distort(perspective(points_camera), self.radial)
        return self.focal * plane + self.principal_points(sizes)

    def unproject(self, xy: Array, sizes: NDArray[np.int64]) -> Array:
        """Compute the undistorted viewing rays of pixels, as points at depth one.

        Args:
            xy: Pixel coordinates, x then y. (..., 2).
            sizes: Width and height, in pixels, of the image that contains each pixel. (..., 2).

        Returns:
            Points in camera coordinates (OpenCV axes) with z = 1. (..., 3).
        """
        return unproject(xy - self.principal_points(sizes), self.focal, self.radial)

    def field_of_view(self, size: NDArray[np.int64]) -> float:
        """Compute the field of view across the longer side of an image.

        Args:
            size: Width and height of the full-resolution image in pixels. (2,).

        Returns:
            Angle in degrees. Distortion is ignored, and the principal point is assumed to be the image
            center.
        """
        return float(np.rad2deg(2 * np.arctan(size.max() / (2 * self.focal))))

    def largest_distortion(self, size: NDArray[np.int64]) -> float:
        """Compute the largest distance by which distortion moves any point of an image.

        Args:
            size: Width and height of the full-resolution image in pixels. (2,).

        Returns:
            Largest distance in pixels. The principal point is assumed to be the image center.
        """
        corner = np.linalg.norm(size) / 2 / self.focal
        radii = np.linspace(0, corner, 100)[:, None] * np.array([1.0, 0.0])
        return self.focal * float(np.abs(distort(radii, self.radial) - radii).max())


def project_errors(points_camera: Array, xy: Array, focal: Array, offset: Array, radial: Array) -> Array:
    """Compute the reprojection error of each point.

    Args:
        points_camera: Points in camera coordinates (OpenCV axes). (n, 3).
        xy: Observed image position of each point, in pixels, x then y. (n, 2).
        focal: Focal length of the camera that observes each point, in pixels. (n,).
        offset: Principal point of the camera that observes each point, in pixels, relative to the same origin
            as `xy`. (n, 2).
        radial: Distortion coefficients k1 and k2 of the camera that observes each point. (n, 2).

    Returns:
        Distances between projection and observation in pixels; infinity for points behind the camera. (n,).
    """
    plane = distort(perspective(points_camera, min_depth=MIN_DEPTH), radial)
    error = np.linalg.norm(focal[:, None] * plane + offset - xy, axis=1)
    return np.where(points_camera[:, 2] > MIN_DEPTH, error, np.inf)
