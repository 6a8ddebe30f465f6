"""The dataset: upright images and masks at training resolution, read as for matching."""

from __future__ import annotations

import numpy as np
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from numpy.typing import NDArray

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.io.images import ImageFile
from nope_splat.io.undistortion import read_undistorted_image, read_undistorted_mask


class NopeDataset(InputDataset):
    """nerfstudio's dataset for upright, undistorted images of all supported formats.

    The dataparser's metadata provide `images`, and `lenses`, the cameras with the distortion to remove.
    """

    def get_numpy_image(self, image_idx: int) -> NDArray[np.uint8]:
        """Read an image at the resolution of its camera. (H, W, 3 or 4).

        Args:
            image_idx: Index of the image in this dataset.
        """
        return read_undistorted_image(self._image(image_idx), self._size(image_idx), self._lens(image_idx))

    def get_metadata(self, data: dict) -> dict:
        """Read the `mask` of an image, if it has one. (H, W, 1), bool, True for used pixels.

        Args:
            data: The batch of the image so far.
        """
        index = data["image_idx"]
        mask = read_undistorted_mask(self._image(index), self._size(index), self._lens(index))
        return {} if mask is None else {"mask": torch.from_numpy(mask)[..., None]}

    def _lens(self, index: int) -> SharedPinhole:
        return self._dataparser_outputs.metadata["lenses"][index]

    def _image(self, index: int) -> ImageFile:
        return self._dataparser_outputs.metadata["images"][index]

    def _size(self, index: int) -> tuple[int, int]:
        return int(self.cameras.width[index]), int(self.cameras.height[index])
