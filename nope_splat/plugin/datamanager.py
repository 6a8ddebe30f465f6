"""nerfstudio's data manager for images without poses."""

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
from nope_splat.plugin.dataparser import NopeDataParser, NopeDataParserConfig
from nope_splat.plugin.dataset import NopeDataset
from nope_splat.splatting.lens import Lens
from nope_splat.utils.device_defaults import Auto, ByDevice


class OptimizedCameras(NamedTuple):
    """Cameras after training."""

    train_poses: Tensor
    """Camera-to-world transforms of the training views, OpenGL axes. (V, 3, 4)."""
    eval_poses: Tensor
    """Camera-to-world transforms of the held-out views, OpenGL axes. (E, 3, 4)."""
    focals: Tensor
    """Focal length of each camera in pixels of the full-resolution images. (K,)."""
    lens: Lens | None = None
    """Their principal points and distortion, if these were optimized. (K, 2) each."""


@dataclass
class NopeDataManagerConfig(FullImageDatamanagerConfig):
    """Configuration of the data manager."""

    _target: type = field(default_factory=lambda: NopeDataManager)
    dataparser: NopeDataParserConfig = field(default_factory=NopeDataParserConfig)
    """From the folder to cameras and tracks."""
    cache_images_type: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride] ("auto" before setup)
        Literal["uint8", "float32"] | Auto, ByDevice(cuda="uint8", cpu="float32")
    ] = "auto"
    """How images are kept in memory: uint8 takes a quarter of it, float32 a little less time on a CPU.
    "auto" is uint8 on a GPU and float32 on a CPU."""
    optimized_cameras: tyro.conf.Suppress[OptimizedCameras | None] = None
    """Of a loaded checkpoint: `ns-render dataset` makes further data managers of this configuration."""


class NopeDataManager(FullImageDatamanager):
    """Full images, on a CPU as well, with the cameras, seeds and tracks of the reconstruction.

    Raises:
        NopeSplatError: If no folder of images was given, or there is none.
    """

    config: NopeDataManagerConfig
    dataparser: NopeDataParser
    train_dataset: NopeDataset
    eval_dataset: NopeDataset

    def __init__(self, config: NopeDataManagerConfig, *args, **kwargs) -> None:
        require_folder(config.data)
        super().__init__(config, *args, **kwargs)
        if self.test_mode == "val":  # nerfstudio's name for a training; all else has a checkpoint's Gaussians
            told = self.dataparser.add_dense_seeds(self.train_dataparser_outputs.metadata)
            self.train_dataset.metadata.update(told)  # a copy of its own, which the model gets
            self.dataparser.add_depth_priors(self.train_dataset.metadata)
        if config.optimized_cameras is not None:
            self.set_cameras(config.optimized_cameras)

    @cached_property
    def dataset_type(self) -> type[NopeDataset]:
        """The dataset that reads images our way."""
        return NopeDataset

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list:
        if torch.device(self.device).type == "cpu":
            cache_images_device = (
                "gpu"  # this means "on the device"; "cpu" would pin memory, for which CUDA is needed
            )
        return super()._load_images(split, cache_images_device)

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """Draw the next training view.

        Args:
            step: Iteration; not used.

        Returns:
            Its camera, whose metadata hold the `size` of the image as numbers (reading it from the camera
            would make each iteration wait for the GPU), and its batch.
        """
        camera, batch = super().next_train(step)
        assert camera.metadata is not None
        height, width = batch["image"].shape[:2]
        camera.metadata["size"] = width, height
        return camera, batch

    def num_pixels_used(self) -> int:
        """Number of pixels of all training images together that no mask leaves out."""
        return sum(
            int(image["mask"].sum()) if "mask" in image else math.prod(image["image"].shape[:2])
            for image in self.cached_train
        )

    def set_cameras(self, cameras: OptimizedCameras) -> None:
        """Give the datasets optimized cameras, which viewer, rendering and export show.

        Args:
            cameras: In the order of the datasets.
        """
        self._set("train", self.train_dataset, cameras.train_poses, cameras)
        self.set_eval_cameras(cameras)

    def set_eval_cameras(self, cameras: OptimizedCameras) -> None:
        """The same for the held-out images only: those of the training views are where training starts.

        Args:
            cameras: In the order of the datasets.
        """
        self._set("eval", self.eval_dataset, cameras.eval_poses, cameras)

    def _set(self, split: str, dataset: NopeDataset, poses: Tensor, optimized: OptimizedCameras) -> None:
        original, scene = dataset._dataparser_outputs.cameras, self.dataparser.scene
        focals = [camera.focal for camera in scene.cameras]
        before = torch.tensor(focals, device=optimized.focals.device).double()
        number = torch.from_numpy(scene.camera_ids[self.dataparser.image_ids(split)])
        factor = ((optimized.focals.double() / before)[number, None] * dataset.scale_factor).float()
        cameras = dataset.cameras
        cameras.camera_to_worlds = poses.clone()
        cameras.fx = original.fx * factor
        cameras.fy = original.fy * factor
        if optimized.lens is not None:
            lens = optimized.lens.select(number)
            shift = (lens.shift / before[number, None]).float()  # in focal lengths of the reconstruction
            cameras.cx = (original.cx + shift[:, :1] * original.fx) * dataset.scale_factor
            cameras.cy = (original.cy + shift[:, 1:] * original.fy) * dataset.scale_factor
            cameras.metadata = (cameras.metadata or {}) | {"radial": lens.radial}


def require_folder(data: Path | None) -> None:
    """Check `--data`, which nerfstudio would take for the working directory when it is missing.

    Args:
        data: What the user gave.

    Raises:
        NopeSplatError: If it is missing, or no folder.
    """
    if data is None:
        raise NopeSplatError("missing-option", "no photos were given; pass their folder with --data")
    if not data.is_dir():
        raise NopeSplatError("missing-file", f"there is no photo folder {data}; check --data")
