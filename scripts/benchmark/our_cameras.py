"""Reconstruct with nope-splat, as a stage that all its trainings in the benchmark share.

python -m scripts.benchmark.our_cameras --data PHOTOS --held-out B.jpg --output-dir OUT
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro

from nope_splat.io.images import find_images
from nope_splat.plugin.dataparser import NopeDataParserConfig
from nope_splat.sfm import reconstruct
from nope_splat.sfm.camera_assignment import assign_cameras
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.camera_file import CameraFile, require_one_camera


def find_cameras(data: Path, held_out: tuple[str, ...], output_dir: Path, seed: int = 0) -> None:
    """Reconstruct the training images, register the held-out images, and write `cameras.json` and `cache/`.

    Args:
        data: Folder of the images.
        held_out: Names of the held-out images.
        output_dir: Output folder.
        seed: Seed of matching, for RANSAC and the retrieval vocabulary.
    """
    options = NopeDataParserConfig().sfm
    options = replace(options, matching=replace(options.matching, seed=seed))  # the options of a training
    folder = find_images(data)
    require_one_camera(data, assign_cameras(folder.images))
    scene = reconstruct(folder, held_out, options, output_dir / "cache")
    poses = {scene.image_names[i]: scene.T_world_camera[i] for i in np.flatnonzero(scene.registered)}
    CameraFile(
        T_world_camera={name: pose for name, pose in poses.items() if name not in held_out},
        held_out={name: pose for name, pose in poses.items() if name in held_out},
        focal=scene.cameras[0].focal,
        offset=scene.cameras[0].offset,
        num_points=len(scene.points),
        seconds=scene.seconds,
    ).save(output_dir / "cameras.json")


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(find_cameras)
