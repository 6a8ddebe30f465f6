"""Camera intrinsics shared by several images, and reprojection errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.distortion import NUM_TERMS, distort, turn_distortion, undistort
from nope_splat.geometry.projection import MIN_DEPTH, LensModel, is_visible, project, unproject
from nope_splat.utils.typing import Array

NO_DISTORTION = (0.0,) * NUM_TERMS
"""Distortion coefficients of a lens without distortion."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics shared by all images of a camera: focal length, principal point, projection and distortion.

    The principal point is relative to the image center. The projection is perspective or, for fisheye lenses,
    equidistant (see `geometry.projection`); `geometry.distortion` defines the distortion. COLMAP's models
    SIMPLE_PINHOLE, RADIAL, and, with equal focal lengths along x and y, OPENCV and OPENCV_FISHEYE have this
    form.

    Pixel coordinates start at the upper left corner of the image; the center of the first pixel is (0.5,
    0.5).

    Example:
        >>> camera = Camera(focal=500.0)
        >>> camera.project(np.array([0.2, 0.0, 1.0]), np.array([640, 480]))
        array([420., 240.])
    """

    focal: float
    """Focal length in pixels of the full-resolution images."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image center, (x, y) in pixels of the full-resolution images as the sensor stores
    them; see `for_upright`."""
    distortion: tuple[float, ...] = NO_DISTORTION
    """Distortion coefficients k1, k2, k3, k4, p1 and p2; p1 and p2 are those of the sensor's pixels (see
    `for_upright`). (6,)."""
    is_fisheye: bool = False
    """Whether the projection is equidistant instead of perspective."""

    @property
    def lens(self) -> LensModel:
        """Projection and distortion."""
        return LensModel(np.asarray(self.distortion), self.is_fisheye)

    @property
    def is_pinhole(self) -> bool:
        """Whether the camera is a pinhole camera without distortion."""
        return not self.is_fisheye and not any(self.distortion)

    def for_upright(self, upright_from_sensor: Array) -> Camera:
        """Convert the camera from the pixels of its sensor to the pixels of an upright image.

        Args:
            upright_from_sensor: Rotation and mirroring by which the image was made upright, for coordinates
                relative to the image center; zeros if unknown, which gives a centered principal point.
                (2, 2).
        """
        offset = upright_from_sensor @ np.asarray(self.offset)
        terms = turn_distortion(np.asarray(self.distortion), upright_from_sensor)
        return replace(self, offset=tuple(offset.tolist()), distortion=tuple(terms.tolist()))

    def principal_points(self, sizes: NDArray[np.int64]) -> Array:
        """Compute the principal points of images of the given sizes.

        Args:
            sizes: Width and height in pixels. (..., 2).

        Returns:
            Principal points in pixels, x then y. (..., 2).
        """
        return np.asarray(sizes, dtype=np.float64) / 2 + np.asarray(self.offset)

    def project(self, points_camera: Array, sizes: NDArray[np.int64]) -> Array:
        """Project points to pixels, with distortion.

        Args:
            points_camera: Points in camera coordinates (OpenCV axes) that the lens can show. (..., 3).
            sizes: Width and height, in pixels, of the image into which each point is projected. (..., 2).

        Returns:
            Pixel coordinates, x then y. (..., 2).
        """
        return project(points_camera, self.focal, self.lens) + self.principal_points(sizes)

    def unproject(self, xy: Array, sizes: NDArray[np.int64]) -> Array:
        """Compute the undistorted viewing rays of pixels.

        Args:
            xy: Pixel coordinates, x then y. (..., 2).
            sizes: Width and height, in pixels, of the image that contains each pixel. (..., 2).

        Returns:
            Rays in camera coordinates (OpenCV axes): points with z = 1 or, for fisheye lenses, unit vectors.
            (..., 3).
        """
        return unproject(xy - self.principal_points(sizes), self.focal, self.lens)

    def field_of_view(self, size: NDArray[np.int64]) -> float:
        """Compute the field of view across the longer side of an image.

        Args:
            size: Width and height of the full-resolution image in pixels. (2,).

        Returns:
            Angle in degrees. The distortion of perspective lenses is ignored, and the principal point is
            assumed to be the image center.
        """
        half = size.max() / (2 * self.focal)
        if not self.is_fisheye:
            return float(np.rad2deg(2 * np.arctan(half)))
        return float(np.rad2deg(2 * undistort(np.array([half, 0.0]), self.distortion)[0]))

    def largest_distortion(self, size: NDArray[np.int64]) -> float:
        """Compute the largest distance by which distortion moves any point of an image.

        Args:
            size: Width and height of the full-resolution image in pixels. (2,).

        Returns:
            Largest distance in pixels, relative to the undistorted projection of the lens. The principal
            point is assumed to be the image center.
        """
        grid = np.stack(np.meshgrid(*(np.linspace(-side / 2, side / 2, 21) for side in size)), -1)
        plane = grid / self.focal
        return self.focal * float(np.linalg.norm(distort(plane, self.distortion) - plane, axis=-1).max())


def project_errors(points_camera: Array, xy: Array, focal: Array, offset: Array, lens: LensModel) -> Array:
    """Compute the reprojection error of each point.

    Args:
        points_camera: Points in camera coordinates (OpenCV axes). (n, 3).
        xy: Observed image position of each point, in pixels, x then y. (n, 2).
        focal: Focal length of the camera that observes each point, in pixels. (n,).
        offset: Principal point of the camera that observes each point, in pixels, relative to the same origin
            as `xy`. (n, 2).
        lens: Projection and distortion of the lens that observes each point.

    Returns:
        Distances between projection and observation in pixels; infinity for points that the lens cannot show,
        such as those behind a pinhole camera. (n,).
    """
    projected = project(points_camera, focal[:, None], lens, MIN_DEPTH)
    error = np.linalg.norm(projected + offset - xy, axis=1)
    return np.where(is_visible(points_camera, lens.is_fisheye), error, np.inf)
