r"""Prepare a scene for nope-splat and splatfacto: cameras, training images and a COLMAP model.

    python -m scripts.gpu.scene --data PHOTOS --output-dir DIR --max-image-size 1600 --eval-interval 8 \
        --output FILE

The outputs in `DIR` are `cache/`; `cameras.json`; `images/` with the images at training resolution; and
`splat/`, the input folder of `scripts/benchmark/splatfacto_peer.py`, with the training images only.
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
"""Maximum number of Gaussians, the default of both methods on CUDA. For few images, the maximum is lower."""

Size = tuple[int, int]


def prepare(data: Path, output_dir: Path, max_image_size: int, eval_interval: int, output: Path) -> None:
    """Reconstruct a scene, and write the inputs of trainings and evaluations.

    Args:
        data: Folder of the images, optionally with `ground_truth.json`.
        output_dir: Output folder.
        max_image_size: Longer side of the training images in pixels; images are never enlarged.
        eval_interval: Interval of the held-out images; with interval n, the first image and every n-th image
            after it are held out.
        output: JSON file with numbers and sizes of the images, the maximum number of Gaussians and the pose
            errors.

    Raises:
        NopeSplatError: If the images have masks, or there are fewer images than `eval_interval`.
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
    distorted = reconstruct(folder, held_out, options, output_dir / "cache")  # read from the cache
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
    """Compute the size of every image in training.

    Args:
        scene: The reconstruction.
        max_image_size: Longer side of the training images in pixels.

    Returns:
        Width and height in pixels, for each image of the reconstruction.
    """
    cameras = training_cameras(scene, np.arange(len(scene.image_names)), max_image_size)
    return list(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))


def write_images(scene: Reconstruction, folder: ImageFolder, sizes: list[Size], output_dir: Path) -> None:
    """Write the registered images undistorted and at training resolution.

    Args:
        scene: The reconstruction, with distortion.
        folder: Folder of the original images.
        sizes: Training width and height of each image, in pixels.
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
    """Copy a reconstruction such that only the chosen images are registered.

    Args:
        scene: A reconstruction without distortion whose tracks are observed only in the chosen images.
        chosen: True for chosen images. (N,).

    Returns:
        The copy, without resections of other images.
    """
    nothing = replace(scene.resections, **{name: each[:0] for name, each in vars(scene.resections).items()})
    return replace(scene, registered=chosen, resections=nothing)


def write_splat_folder(scene: Reconstruction, sizes: list[Size], images: Path, output_dir: Path) -> None:
    """Write a COLMAP model at training resolution, with links to the images.

    Args:
        scene: A reconstruction without distortion. Its registered images are written.
        sizes: Training width and height of each image, in pixels.
        images: Folder of the images at training resolution, as `.png`.
        output_dir: Output folder for `images/` and `sparse/0`.
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
    """Scale a COLMAP model to other image sizes, and change the suffix of image names to `.png`.

    Args:
        model: A model whose cameras have no distortion.
        sizes: New (width, height) by old (width, height), in pixels.
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
    """Compute the pose errors of the training cameras.

    Args:
        cameras: A `cameras.json` file.
        data: Folder that may contain `ground_truth.json`.

    Returns:
        Metrics of `PoseMetrics` by name; None if there is no `ground_truth.json`.
    """
    if not (data / "ground_truth.json").exists():
        return None
    file, ground_truth = CameraFile.load(cameras), read_ground_truth(data / "ground_truth.json")
    truth = {name: pose for name, pose in ground_truth.T_world_camera.items() if name in file.T_world_camera}
    return asdict(compare_poses(file.T_world_camera, truth, file.focal, ground_truth.focal))


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(prepare)
