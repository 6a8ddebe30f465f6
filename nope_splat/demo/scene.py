"""The demo scene: a small procedural valley, rendered by ray casting with known cameras, for demo and tests.

The cameras are either on an arc and face inward, or on a tour through the valley and face in all directions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from nope_splat.demo.camera_paths import arc_poses, tour_poses
from nope_splat.demo.lens import Projection, camera_rays, lens_json, make_camera, panorama_rays
from nope_splat.demo.valley import DemoScene, Lighting
from nope_splat.errors import NopeSplatError
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class DemoSceneConfig:
    """Options of the demo scene."""

    num_images: int = 20
    """Number of images to render."""
    size: tuple[int, int] = (640, 480)
    """Width and height of the images in pixels."""
    seed: int = 0
    """Random seed for the shapes and textures of the scene and for the camera poses."""
    trajectory: Literal["arc", "tour"] = "arc"
    """Camera trajectory. With "arc", cameras are on an arc around the center and face inward. With "tour",
    cameras go through the whole valley and face in all directions; this needs at least fifty images for
    enough overlap."""
    depth: bool = False
    """Whether to also write the true depth maps to `depth/*.npz`. Each file contains the array `depth` (H, W)
    in world units."""
    projection: Projection = "perspective"
    """Projection of the lens: "perspective", "fisheye" (equidistant), or "equirectangular" for panoramas of
    the whole sphere, whose width must be twice their height."""
    distortion: tuple[float, float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    """Distortion coefficients k1, k2, k3, k4, p1 and p2: those of OPENCV for perspective lenses (with k3 = k4
    = 0), and those of OPENCV_FISHEYE for fisheye lenses (with p1 = p2 = 0)."""
    field_of_view: float = 54.0
    """Field of view in degrees along the longer side of the images: up to 178 for perspective lenses, before
    distortion, and up to 190 for fisheye lenses. Fisheye lenses show at most 95 degrees from the optical
    axis; other pixels are black. Panoramas ignore it."""
    supersampling: int = 2
    """Number of rays per pixel along each image axis; more rays reduce aliasing but take longer."""


def render_demo_scene(output_dir: Path, config: DemoSceneConfig | None = None) -> Path:
    """Render images of the demo scene and write them to a folder.

    Writes `images/*.jpg`, numbered in random order, and `ground_truth.json` with the true intrinsics and
    poses, for evaluating results. With `config.depth`, also writes `depth/*.npz`.

    Args:
        output_dir: Output folder; created if missing.
        config: Options of the scene; None for the defaults.

    Returns:
        Folder of the images, `output_dir/images`.

    Raises:
        NopeSplatError: If an option is out of range, the folder cannot be written, or no package for ray
            casting (embreex or rtree) is installed.
    """
    if find_spec("embreex") is None and find_spec("rtree") is None:  # trimesh needs one of them to cast rays
        raise NopeSplatError(
            "missing-package",
            "the demo scene needs a ray caster; run pip install 'nope-splat[demo]'",
        )
    config = config or DemoSceneConfig()
    num_images, size, seed = config.num_images, config.size, config.seed
    if num_images < 1 or min(size) < 1 or seed < 0:
        raise NopeSplatError(
            "invalid-option",
            f"cannot generate {num_images} photos of {size[0]} x {size[1]} pixels with seed {seed}: the"
            " number of photos, the width and the height must be at least 1, and the seed at least 0",
        )
    lens = _Lens(config)
    rng = np.random.default_rng(seed)
    scene = DemoScene(rng, Lighting())
    sample_poses = arc_poses if config.trajectory == "arc" else tour_poses
    poses = rng.permutation(sample_poses(rng, num_images))
    try:
        _write_images(output_dir, scene, poses, lens)
    except OSError as error:
        reason = error.strerror or error
        raise NopeSplatError(
            "unwritable-output",
            f"cannot write the demo photos to {output_dir} ({reason}); free some disk space or choose another"
            " output folder",
        ) from error
    return output_dir / "images"


class _Lens:
    """The lens of the images, and the viewing rays of their pixels.

    Args:
        config: Options of the scene.

    Raises:
        NopeSplatError: If the lens does not exist.
    """

    def __init__(self, config: DemoSceneConfig) -> None:
        self.config, size = config, config.size
        is_panorama = config.projection == "equirectangular"
        if is_panorama and size[0] != 2 * size[1]:
            raise NopeSplatError(
                "invalid-option",
                f"a panorama of the whole sphere cannot have {size[0]} x {size[1]} pixels: its width must be"
                " twice its height",
            )
        camera = None
        if not is_panorama:
            camera = make_camera(config.projection, config.distortion, config.field_of_view, size)
        self.json = lens_json(camera, size)
        dense, single = (
            panorama_rays(size, density) if camera is None else camera_rays(camera, size, density)
            for density in (config.supersampling, 1)
        )
        self.rays, self.center_rays = dense, single


def _write_images(output_dir: Path, scene: DemoScene, poses: Array, lens: _Lens) -> None:
    """Render and write images, depth maps and `ground_truth.json`.

    Args:
        output_dir: Output folder; created if missing.
        scene: The scene.
        poses: Camera-to-world transforms, OpenCV axes. (N, 4, 4).
        lens: Lens of the images.

    Raises:
        OSError: If a file cannot be written.
    """
    config, frames = lens.config, []
    (output_dir / "images").mkdir(parents=True, exist_ok=True)
    for index, pose in enumerate(poses):
        name = f"images/photo_{index:03d}.jpg"
        image = scene.render_image(pose, lens.rays, config.size, config.supersampling)
        Image.fromarray(image).save(output_dir / name, quality=95)
        frames.append({"file_path": name, "camera_to_world_opencv": pose.tolist()})
        if config.depth:
            (output_dir / "depth").mkdir(exist_ok=True)
            file = output_dir / "depth" / f"photo_{index:03d}.npz"
            np.savez_compressed(file, depth=scene.render_depth(pose, lens.center_rays, config.size))
    note = "true cameras, for checks only; OpenCV camera axes: x right, y down, z forward"
    truth = {"note": note, **lens.json, "frames": frames}
    (output_dir / "ground_truth.json").write_text(json.dumps(truth, indent=1))
