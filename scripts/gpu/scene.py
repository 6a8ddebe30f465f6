r"""Prepare a scene for both methods: cameras, images at training resolution, and a COLMAP model of them.

    python -m scripts.gpu.scene --data PHOTOS --output-dir DIR --max-image-size 1600 --eval-interval 8 \
        --output FILE

`DIR` gets `cache/`; `cameras.json`; `images/` with the images at training resolution; and `splat/`, the input
folder of `scripts/benchmark/splatfacto_peer.py`, with only the training images.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.colmap import ColmapCamera, ColmapModel, write_binary
from nope_splat.io.export import colmap_model
from nope_splat.io.images import ImageFolder, find_images
from nope_splat.io.undistortion import read_undistorted_image
from nope_splat.plugin.dataparser import NopeDataParserConfig, training_cameras
from nope_splat.sfm import Reconstruction, reconstruct
from nope_splat.splatting.densification import max_num_gaussians
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.camera_file import CameraFile
from scripts.benchmark.our_cameras import find_cameras

MAX_GAUSSIANS = 3_000_000
"""Maximum number of Gaussians, the CUDA default of both methods; few images lower it."""

Size = tuple[int, int]


def prepare(data: Path, output_dir: Path, max_image_size: int, eval_interval: int, output: Path) -> None:
    """Reconstruct, and write the inputs of trainings and evaluations.

    Args:
        data: Folder of the images, optionally with `ground_truth.json`.
        output_dir: Output folder.
        max_image_size: Longer side of the training images in pixels; they are never enlarged.
        eval_interval: Interval of the held-out images, starting with the first image.
        output: Result file.

    Raises:
        NopeSplatError: If the images have masks, or are too few to hold one out.
    """
    folder = find_images(data)
    names = [image.name for image in folder.images]
    if any(image.mask_path for image in folder.images):
        raise NopeSplatError(
            "unsupported-scene", f"{data} has masks, which splatfacto does not get here; choose another scene"
        )
    if len(names) < eval_interval:
        raise NopeSplatError(
            "invalid-option", f"{data} has {len(names)} photos; choose an --eval-interval up to that"
        )
    held_out = names[::eval_interval]
    find_cameras(data, tuple(held_out), output_dir)
    options = NopeDataParserConfig().sfm
    options = replace(options, matching=replace(options.matching, seed=0))
    distorted = reconstruct(folder, held_out, options, output_dir / "cache")  # from the cache
    scene = distorted.undistorted()
    sizes = training_sizes(scene, max_image_size)
    write_images(distorted, folder, sizes, output_dir / "images")
    train = scene.registered & ~scene.held_out
    write_splat_folder(only(scene, train), sizes, output_dir / "images", output_dir / "splat")
    num_pixels = sum(math.prod(sizes[i]) for i in np.flatnonzero(train))
    content = {
        "image_size": scene.image_sizes[0].tolist(),
        "training_size": list(sizes[0]),
        "train": int(train.sum()),
        "held_out": int((scene.registered & scene.held_out).sum()),
        "points": len(scene.points),
        "max_gaussians": min(MAX_GAUSSIANS, max_num_gaussians(num_pixels)),
        "cameras": against_truth(output_dir / "cameras.json", data),
    }
    output.write_text(json.dumps(content))


def training_sizes(scene: Reconstruction, max_image_size: int) -> list[Size]:
    """Compute the training width and height of every image.

    Args:
        scene: The reconstruction.
        max_image_size: Longer side in pixels.
    """
    cameras = training_cameras(scene, np.arange(len(scene.image_names)), max_image_size)
    return list(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))


def write_images(scene: Reconstruction, folder: ImageFolder, sizes: list[Size], output_dir: Path) -> None:
    """Write the registered images, undistorted, at training resolution.

    Args:
        scene: The reconstruction, with distortion.
        folder: The images.
        sizes: Width and height of each.
        output_dir: Output folder for the `.png` files.
    """
    images = {image.name: image for image in folder.images}
    for index in np.flatnonzero(scene.registered).tolist():
        name = scene.image_names[index]
        file = (output_dir / name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = read_undistorted_image(images[name], sizes[index], scene.camera_of(index))
        Image.fromarray(pixels[..., :3]).save(file)


def only(scene: Reconstruction, chosen: NDArray[np.bool_]) -> Reconstruction:
    """Copy a scene with only the chosen images registered.

    Args:
        scene: A scene without distortion whose tracks come only from these images.
        chosen: Mask of the images. (N,).
    """
    nothing = replace(scene.resections, **{name: each[:0] for name, each in vars(scene.resections).items()})
    return replace(scene, registered=chosen, resections=nothing)


def write_splat_folder(scene: Reconstruction, sizes: list[Size], images: Path, output_dir: Path) -> None:
    """Write a COLMAP model at training resolution, with links to the images.

    Args:
        scene: A scene without distortion; its registered images are written.
        sizes: Width and height of each image.
        images: Folder of the images at that size, as `.png`.
        output_dir: Output folder of `images/` and `sparse/0`.
    """
    small = {tuple(full): size for full, size in zip(scene.image_sizes.tolist(), sizes, strict=True)}
    model = at_size(colmap_model(scene), small)
    for image in model.images.values():
        link = output_dir / "images" / image.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((images / image.name).resolve())
    (output_dir / "sparse" / "0").mkdir(parents=True)
    write_binary(model, output_dir / "sparse" / "0")


def at_size(model: ColmapModel, sizes: dict[tuple[int, ...], Size]) -> ColmapModel:
    """Scale a model to other image sizes, and rename the images to `.png`.

    Args:
        model: A model with cameras without distortion.
        sizes: Old to new width and height.
    """
    scales = {
        number: np.array(sizes[camera.width, camera.height]) / [camera.width, camera.height]
        for number, camera in model.cameras.items()
    }
    cameras = {}
    for number, camera in model.cameras.items():
        fx, fy = (camera.focal * scales[number]).tolist()
        cx, cy = (camera.principal_point * scales[number]).tolist()
        cameras[number] = ColmapCamera("PINHOLE", *sizes[camera.width, camera.height], (fx, fy, cx, cy))
    images = {
        number: replace(
            image, name=str(Path(image.name).with_suffix(".png")), xy=image.xy * scales[image.camera_id]
        )
        for number, image in model.images.items()
    }
    return replace(model, cameras=cameras, images=images)


def against_truth(cameras: Path, data: Path) -> dict[str, float] | None:
    """Compute pose errors of the training cameras if there is a ground truth.

    Args:
        cameras: A `cameras.json`.
        data: Folder that may hold `ground_truth.json`.
    """
    if not (data / "ground_truth.json").exists():
        return None
    file, ground_truth = CameraFile.load(cameras), read_ground_truth(data / "ground_truth.json")
    truth = {name: pose for name, pose in ground_truth.T_world_camera.items() if name in file.T_world_camera}
    return asdict(compare_poses(file.T_world_camera, truth, file.focal, ground_truth.focal))


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(prepare)
