"""The data manager: training and held-out images with the cameras, seeds and tracks of the reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from torch import Tensor

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.camera_intrinsics import is_fisheye
from nope_splat.plugin.dataparser import NopeDataParser, NopeDataParserConfig
from nope_splat.plugin.dataset import NopeDataset
from nope_splat.splatting.lens import Lens
from nope_splat.utils.device_defaults import Auto, ByDevice


class OptimizedCameras(NamedTuple):
    """Optimized poses and intrinsics of all training and held-out images."""

    train_poses: Tensor
    """Camera-to-world transforms of the V training images, OpenGL axes. (V, 3, 4)."""
    eval_poses: Tensor
    """Camera-to-world transforms of the E registered held-out images, OpenGL axes. (E, 3, 4)."""
    focals: Tensor
    """Focal length of each of the K cameras, in full-resolution pixels. (K,)."""
    lens: Lens | None = None
    """Principal point shifts relative to the reconstruction (full-resolution pixels) and distortion of the K
    cameras; None if neither is optimized."""


@dataclass
class NopeDataManagerConfig(FullImageDatamanagerConfig):
    """Options of the data manager, which provides images and cameras to the training run."""

    _target: type = field(default_factory=lambda: NopeDataManager)
    dataparser: NopeDataParserConfig = field(default_factory=NopeDataParserConfig)
    """Options of the dataparser, which reconstructs cameras and tracks from the image folder."""
    cache_images_type: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride] ("auto" before setup)
        Literal["uint8", "float32"] | Auto, ByDevice(cuda="uint8", cpu="float32")
    ] = "auto"
    """Data type of images in memory. uint8 needs a quarter of the memory of float32; float32 is slightly
    faster on a CPU. "auto" is uint8 on a GPU and float32 on a CPU."""
    optimized_cameras: tyro.conf.Suppress[OptimizedCameras | None] = None
    """Cameras of the loaded checkpoint; None to use the cameras of the reconstruction. `ns-render dataset`
    needs this field, because it creates a second data manager from this configuration."""


class NopeDataManager(FullImageDatamanager):
    """nerfstudio's full-image data manager, with cameras, seeds and tracks from the reconstruction.

    Raises:
        NopeSplatError: If no image folder is set, or the folder does not exist.
    """

    config: NopeDataManagerConfig
    dataparser: NopeDataParser
    train_dataset: NopeDataset
    eval_dataset: NopeDataset

    def __init__(self, config: NopeDataManagerConfig, *args, **kwargs) -> None:
        require_data(config.data)
        super().__init__(config, *args, **kwargs)
        if self.test_mode == "val":  # nerfstudio's mode for training; in other modes Gaussians are loaded
            seed_metadata = self.dataparser.add_seeds(self.train_dataparser_outputs.metadata)
            self.train_dataset.metadata.update(seed_metadata)  # the dataset's copy, passed to the model
            self.dataparser.add_depth_priors(self.train_dataset.metadata)
        if config.optimized_cameras is not None:
            self.set_cameras(config.optimized_cameras)

    @cached_property
    def dataset_type(self) -> type[NopeDataset]:
        """Class of the training and evaluation datasets."""
        return NopeDataset

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list:
        """Load the images of a split into memory, which is pinned only if the training device is a GPU."""
        if torch.device(self.device).type == "cpu":
            # nerfstudio's "gpu" means `self.device`. Its "cpu" would pin memory, which requires CUDA.
            cache_images_device = "gpu"
        return super()._load_images(split, cache_images_device)

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """Select a random training image for the next iteration.

        Args:
            step: Iteration; unused.

        Returns:
            The camera, and a batch with the image. The camera's metadata contain `size`, the image width and
            height as integers, and `is_fisheye`, because reading them from the camera would synchronize with
            the GPU.
        """
        camera, batch = super().next_train(step)
        assert camera.metadata is not None
        height, width = batch["image"].shape[:2]
        camera.metadata["size"] = width, height
        camera.metadata["is_fisheye"] = self._is_fisheye[batch["image_idx"]]
        return camera, batch

    @cached_property
    def _is_fisheye(self) -> list[bool]:
        """Whether the camera of each training image is a fisheye camera. (V,)."""
        cameras = self.train_dataset.cameras
        return [is_fisheye(cameras[index : index + 1]) for index in range(len(cameras))]

    def num_pixels_used(self) -> int:
        """Return the total number of unmasked pixels in all training images, at training resolution."""
        return sum(
            int(image["mask"].sum()) if "mask" in image else math.prod(image["image"].shape[:2])
            for image in self.cached_train
        )

    def set_cameras(self, cameras: OptimizedCameras) -> None:
        """Replace the cameras of all images by optimized cameras, for use by viewer, rendering and export.

        Args:
            cameras: Optimized cameras, in the order of the images in the datasets.
        """
        self._replace_cameras("train", self.train_dataset, cameras.train_poses, cameras)
        self.set_eval_cameras(cameras)

    def set_eval_cameras(self, cameras: OptimizedCameras) -> None:
        """Replace the cameras of the held-out images, but not the cameras of the training images.

        During training, the training images must keep the cameras of the reconstruction, because the camera
        optimizer applies its corrections to these cameras.

        Args:
            cameras: Optimized cameras, in the order of the images in the datasets.
        """
        self._replace_cameras("eval", self.eval_dataset, cameras.eval_poses, cameras)

    def _replace_cameras(
        self, split: str, dataset: NopeDataset, poses: Tensor, optimized: OptimizedCameras
    ) -> None:
        """Replace poses and intrinsics of the cameras in a dataset, at training resolution.

        Args:
            split: Split of the images in `dataset`, "train" or "eval".
            dataset: The dataset, modified in place.
            poses: Camera-to-world transforms of the images in `dataset`, OpenGL axes. (n, 3, 4).
            optimized: Optimized cameras; only their intrinsics are used.
        """
        original, scene = dataset._dataparser_outputs.cameras, self.dataparser.scene
        focals = [camera.focal for camera in scene.cameras]
        original_focals = torch.tensor(focals, device=optimized.focals.device).double()
        number = torch.from_numpy(scene.camera_ids[self.dataparser.image_ids(split)])
        factor = ((optimized.focals.double() / original_focals)[number, None] * dataset.scale_factor).float()
        cameras = dataset.cameras
        cameras.camera_to_worlds = poses.clone()
        cameras.fx = original.fx * factor
        cameras.fy = original.fy * factor
        if optimized.lens is not None:
            lens = optimized.lens.select(number)
            shift = (
                lens.shift / original_focals[number, None]
            ).float()  # in units of the original focal length
            cameras.cx = (original.cx + shift[:, :1] * original.fx) * dataset.scale_factor
            cameras.cy = (original.cy + shift[:, 1:] * original.fy) * dataset.scale_factor
            if lens.distortion.any():
                cameras.metadata = (cameras.metadata or {}) | {"distortion": lens.distortion}


def require_data(data: Path | None) -> None:
    """Check that the image folder or video is set and exists.

    If it is not set, nerfstudio would use the working directory.

    Args:
        data: Value of the option `--data`, a folder or a video; None if not set.

    Raises:
        NopeSplatError: If `data` is None or does not exist.
    """
    if data is None:
        raise NopeSplatError(
            "missing-option", "no photos were given; pass a photo folder or a video with --data"
        )
    if not data.exists():
        raise NopeSplatError("missing-file", f"the photo folder or video {data} does not exist; check --data")
