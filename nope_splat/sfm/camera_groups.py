"""Groups of images that share a camera, and the pixel unit of SfM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nope_splat.matching import Keypoints


@dataclass(frozen=True)
class CameraGroups:
    """Sizes, cameras and pixel units of the images.

    All thresholds of SfM are in *feature pixels*: pixels of the images in which keypoints were detected.
    Images of one camera have the same size, up to portrait and landscape, and thus the same unit.
    """

    sizes: NDArray[np.int64]
    """Width and height of the images at full resolution. (N, 2)."""
    camera_ids: NDArray[np.int64]
    """Camera of each image. (N,)."""
    pixel_sizes: NDArray[np.floating]
    """Side of a feature pixel of each image in full-resolution pixels. (N,)."""

    @classmethod
    def from_keypoints(
        cls, sizes: NDArray[np.int64], camera_ids: NDArray[np.int64], keypoints: Sequence[Keypoints]
    ) -> CameraGroups:
        """Create the groups, with the size of feature pixels of each camera from the keypoints of its images.

        Args:
            sizes: Width and height of the images at full resolution. (N, 2).
            camera_ids: Camera of each image. (N,).
            keypoints: Keypoints of each image.
        """
        pixel_sizes = np.zeros(int(camera_ids.max()) + 1)
        np.maximum.at(pixel_sizes, camera_ids, [image_keypoints.pixel_size for image_keypoints in keypoints])
        return cls(sizes, camera_ids, pixel_sizes[camera_ids])

    @property
    def num_cameras(self) -> int:
        """Number of cameras K."""
        return int(self.camera_ids.max()) + 1

    @property
    def longer_sides(self) -> NDArray[np.floating]:
        """Longer side of the images of each camera, feature pixels. (K,)."""
        sides = np.zeros(self.num_cameras)
        np.maximum.at(sides, self.camera_ids, self.sizes.max(axis=1) / self.pixel_sizes)
        return sides

    @property
    def camera_pixel_sizes(self) -> NDArray[np.floating]:
        """Side of a feature pixel of each camera in full-resolution pixels. (K,)."""
        pixel_sizes = np.ones(self.num_cameras)
        pixel_sizes[self.camera_ids] = self.pixel_sizes
        return pixel_sizes

    def to_centered(
        self, xy: NDArray[np.floating], image_ids: NDArray[np.int64] | int
    ) -> NDArray[np.floating]:
        """Convert full-resolution pixel coordinates to feature pixels from the image center.

        Args:
            xy: Pixel coordinates. (n, 2).
            image_ids: Image of each row of `xy`, or one image for all rows. (n,) or ().
        """
        return (xy - self.sizes[image_ids] / 2) / self.pixel_sizes[image_ids, None]
