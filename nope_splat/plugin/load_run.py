"""Load a training run from its folder: configuration, data and model of the latest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.axes import switch_axes
from nope_splat.geometry.rigid import nearest_rotation
from nope_splat.plugin.checkpoints import last_checkpoint, load_checkpoint
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.safe_config import check_config, read_config
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.sfm import Reconstruction


@dataclass(frozen=True)
class LoadedRun:
    """A training run, loaded at its latest checkpoint."""

    path: Path
    """Path of the run's `config.yml`."""
    config: NopeTrainerConfig
    """Configuration of the training run."""
    pipeline: NopePipeline
    """Data and model, with the state of the latest checkpoint."""
    step: int
    """Iteration of the latest checkpoint; the first iteration of a training run is 0."""


def open_run(config: Path) -> LoadedRun:
    """Load a training run at its latest checkpoint, without executing code from its files.

    Args:
        config: Path of the `config.yml` in the run's folder.

    Returns:
        The run.

    Raises:
        NopeSplatError: If the run is missing or was trained with another method. Also if its latest
            checkpoint is missing, is damaged, or does not match the configuration or the photos.
    """
    loaded = read_config(config)
    checkpoint = last_checkpoint(config.parent / "nerfstudio_models")
    if not isinstance(loaded, NopeTrainerConfig):
        raise NopeSplatError(
            "unreadable-file",
            f"{config} is a training config of {loaded.method_name}, not of nope-splat; pass the config.yml"
            " of a nope-splat training run",
        )
    check_config(loaded, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # the pipeline checks gsplat's kernels
    pipeline = loaded.pipeline.setup(device=device, test_mode="inference")
    assert isinstance(pipeline, NopePipeline)
    pipeline.eval()
    state = load_checkpoint(checkpoint)
    pipeline.load_pipeline(state["pipeline"], state["step"])
    return LoadedRun(config, loaded, pipeline, state["step"])


@torch.no_grad()
def optimized_scene(pipeline: NopePipeline) -> Reconstruction:
    """Return the reconstruction with the optimized cameras and track points of a training run.

    Args:
        pipeline: Pipeline with the trained model.

    Returns:
        The reconstruction of the original images. Poses of held-out images are aligned to the trained model
        (see `NopePipeline.align_held_out`).

    Raises:
        NopeSplatError: If the cached reconstruction differs from the one used in training.
    """
    model, dataparser = pipeline.model, pipeline.datamanager.dataparser
    scene, points = dataparser.distorted_scene, model.track_positions().double().numpy(force=True)
    if not pipeline.same_reconstruction:
        raise NopeSplatError(
            "checkpoint-mismatch",
            f"the reconstruction of {dataparser.config.data} differs from the one in the checkpoint; restore"
            " the original settings and cache, or train again",
        )
    T_world_camera = scene.T_world_camera.copy()
    for split, poses in (("train", model.camera_optimizer.poses()), ("eval", pipeline.eval_poses)):
        T_world_camera[dataparser.image_ids(split), :3] = _orthonormal(
            switch_axes(poses).double().numpy(force=True)
        )
    cameras = model.camera_optimizer.cameras(scene.cameras)
    return replace(scene, T_world_camera=T_world_camera, cameras=cameras, points=points)


def _orthonormal(poses: NDArray[np.floating]) -> NDArray[np.floating]:
    """Replace the left 3 x 3 blocks of poses (V, 3, 4) by the nearest rotation matrices.

    The optimizer computes poses in single precision, so the blocks are orthonormal only to single precision.
    Exported rotations must be orthonormal to double precision.
    """
    poses = poses.copy()
    poses[:, :, :3] = nearest_rotation(poses[:, :, :3])
    return poses
