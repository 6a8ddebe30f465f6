"""The dataset: upright, undistorted images and masks at training resolution."""

from __future__ import annotations

import numpy as np
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from numpy.typing import NDArray

from nope_splat.geometry.camera import Camera
from nope_splat.io.images import ImageFile
from nope_splat.io.undistortion import read_undistorted_image, read_undistorted_mask


class NopeDataset(InputDataset):
    """nerfstudio dataset that reads upright, undistorted images of all supported formats.

    The metadata from the dataparser must contain three lists with one entry per image: `images`
    (`ImageFile`), and the full-resolution intrinsics (`Camera`) `lenses` of the original image and `targets`
    of the image used in training.
    """

    def get_numpy_image(self, image_idx: int) -> NDArray[np.uint8]:
        """Read an upright, undistorted image at training resolution.

        Args:
            image_idx: Index of the image in this dataset.

        Returns:
            Colors, 0 to 255: RGB (H, W, 3) or, for images with transparency, RGBA (H, W, 4).
        """
        return read_undistorted_image(
            self._image(image_idx), self._size(image_idx), *self._lens_and_target(image_idx)
        )

    def get_metadata(self, data: dict) -> dict:
        """Read the mask of an image for its batch.

        Args:
            data: Batch of the image, with its index `image_idx` in this dataset.

        Returns:
            Dictionary with the entry `mask` (H, W, 1), True for used pixels; empty if all pixels are used.
        """
        index = data["image_idx"]
        mask = read_undistorted_mask(self._image(index), self._size(index), *self._lens_and_target(index))
        return {} if mask is None else {"mask": torch.from_numpy(mask)[..., None]}

    def _lens_and_target(self, index: int) -> tuple[Camera, Camera]:
        """Return the full-resolution intrinsics of the original image, and of the image used in training."""
        metadata = self._dataparser_outputs.metadata
        return metadata["lenses"][index], metadata["targets"][index]

    def _image(self, index: int) -> ImageFile:
        """Return the `ImageFile` of the image with the given index in this dataset."""
        return self._dataparser_outputs.metadata["images"][index]

    def _size(self, index: int) -> tuple[int, int]:
        """Return width and height of an image at training resolution, in pixels."""
        return int(self.cameras.width[index]), int(self.cameras.height[index])
