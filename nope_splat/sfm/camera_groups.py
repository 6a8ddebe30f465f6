"""Assignment of images to shared cameras, and the unit of image coordinates in SfM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nope_splat.matching import Keypoints
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class CameraGroups:
    """Size, camera and keypoint detection resolution of each image.

    SfM measures image coordinates in *pixels at keypoint detection resolution*: pixels of the image after
    scaling it to the size at which keypoints were detected. All images of a camera have the same size, up to
    a rotation by 90 degrees, and therefore the same keypoint detection resolution.
    """

    sizes: NDArray[np.int64]
    """Width and height of each image at full resolution, in pixels. (N, 2)."""
    camera_ids: NDArray[np.int64]
    """Index of the camera (set of intrinsics) of each image. (N,)."""
    pixel_sizes: NDArray[np.floating]
    """Full-resolution pixels per pixel at keypoint detection resolution, for each image. (N,)."""
    upright_from_sensor: Array
    """Rotation and mirroring of each image from pixels of the sensor to upright pixels, both relative to the
    image center; zeros if unknown. (N, 2, 2)."""

    @classmethod
    def from_keypoints(
        cls,
        sizes: NDArray[np.int64],
        camera_ids: NDArray[np.int64],
        keypoints: Sequence[Keypoints],
        upright_from_sensor: Array | None = None,
    ) -> CameraGroups:
        """Create the groups from image sizes, camera indices and keypoints.

        The keypoint detection resolution of an image is the size to which the image was scaled to detect
        keypoints. If the images of a camera have different resolutions, the lowest is used for all of them.

        Args:
            sizes: Width and height of each image at full resolution, in pixels. (N, 2).
            camera_ids: Index of the camera of each image. (N,).
            keypoints: Keypoints of each image.
            upright_from_sensor: Rotation and mirroring of each image from pixels of the sensor to upright
                pixels; identities if None. (N, 2, 2).
        """
        pixel_sizes = np.zeros(int(camera_ids.max()) + 1)
        np.maximum.at(pixel_sizes, camera_ids, [image_keypoints.pixel_size for image_keypoints in keypoints])
        if upright_from_sensor is None:
            upright_from_sensor = np.tile(np.eye(2), (len(sizes), 1, 1))
        return cls(sizes, camera_ids, pixel_sizes[camera_ids], upright_from_sensor)

    @property
    def num_cameras(self) -> int:
        """Number of cameras K."""
        return int(self.camera_ids.max()) + 1

    @property
    def longer_sides(self) -> NDArray[np.floating]:
        """Longer side of the images of each camera, in pixels at keypoint detection resolution. (K,)."""
        sides = np.zeros(self.num_cameras)
        np.maximum.at(sides, self.camera_ids, self.sizes.max(axis=1) / self.pixel_sizes)
        return sides

    @property
    def camera_pixel_sizes(self) -> NDArray[np.floating]:
        """Full-resolution pixels per pixel at keypoint detection resolution, for each camera. (K,)."""
        pixel_sizes = np.ones(self.num_cameras)
        pixel_sizes[self.camera_ids] = self.pixel_sizes
        return pixel_sizes

    def to_centered(
        self, xy: NDArray[np.floating], image_ids: NDArray[np.int64] | int
    ) -> NDArray[np.floating]:
        """Convert full-resolution pixels to centered pixels at keypoint detection resolution.

        Args:
            xy: Full-resolution pixel coordinates. (n, 2).
            image_ids: Image of each row of `xy`, or one image for all rows. (n,) or ().

        Returns:
            Coordinates relative to the image center, in pixels at keypoint detection resolution. (n, 2).
        """
        return (xy - self.sizes[image_ids] / 2) / self.pixel_sizes[image_ids, None]
