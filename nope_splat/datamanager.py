"""nerfstudio's data manager for photographs without poses."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from torch import Tensor

from nope_splat.dataparser import NopeDataParser, NopeDataParserConfig
from nope_splat.dataset import NopeDataset
from nope_splat.errors import UserError


class OptimizedCameras(NamedTuple):
    """Cameras after training."""

    train_poses: Tensor
    """Camera-to-world transforms of the training views, OpenGL axes. (V, 3, 4)."""
    eval_poses: Tensor
    """Camera-to-world transforms of the held-out views, OpenGL axes. (E, 3, 4)."""
    focals: Tensor
    """Focal length of each camera in pixels of the full-resolution photographs. (K,)."""


@dataclass
class NopeDataManagerConfig(FullImageDatamanagerConfig):
    """Configuration of the data manager."""

    _target: type = field(default_factory=lambda: NopeDataManager)
    dataparser: NopeDataParserConfig = field(default_factory=NopeDataParserConfig)
    """From the folder to cameras and tracks."""
    optimized_cameras: tyro.conf.Suppress[OptimizedCameras | None] = None
    """Of a loaded checkpoint: `ns-render dataset` makes further data managers of this configuration."""


class NopeDataManager(FullImageDatamanager):
    """Full images, on a CPU as well, with the cameras, seeds and tracks of the reconstruction.

    Raises:
        UserError: If no folder of photographs was given, or there is none.
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
        """The dataset that reads photographs our way."""
        return NopeDataset

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list:
        if torch.device(self.device).type == "cpu":
            cache_images_device = (
                "gpu"  # this means "on the device"; "cpu" would pin memory, for which CUDA is needed
            )
        return super()._load_images(split, cache_images_device)

    def set_cameras(self, cameras: OptimizedCameras) -> None:
        """Give the datasets optimised cameras, which viewer, rendering and export show.

        Args:
            cameras: In the order of the datasets.
        """
        self._set("train", self.train_dataset, cameras.train_poses, cameras.focals)
        self.set_eval_cameras(cameras)

    def set_eval_cameras(self, cameras: OptimizedCameras) -> None:
        """The same for the held-out photographs only: those of the training views are where training starts.

        Args:
            cameras: In the order of the datasets.
        """
        self._set("eval", self.eval_dataset, cameras.eval_poses, cameras.focals)

    def _set(self, split: str, dataset: NopeDataset, poses: Tensor, focals: Tensor) -> None:
        original, scene = dataset._dataparser_outputs.cameras, self.dataparser.scene
        change = focals.double() / torch.tensor([camera.focal for camera in scene.cameras]).double()
        of_view = change[torch.from_numpy(scene.camera_ids[self.dataparser.photo_ids(split)]), None]
        factor = (of_view * dataset.scale_factor).float()
        dataset.cameras.camera_to_worlds = poses.clone()
        dataset.cameras.fx = original.fx * factor
        dataset.cameras.fy = original.fy * factor


def require_folder(data: Path | None) -> None:
    """Check `--data`, which nerfstudio would take for the working directory when it is missing.

    Args:
        data: What the user gave.

    Raises:
        UserError: If it is missing, or no folder.
    """
    if data is None:
        raise UserError("no photographs were given; pass their folder with --data")
    if not data.is_dir():
        raise UserError(f"there is no photo folder {data}; check --data")
