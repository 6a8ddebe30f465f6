r"""Reconstruct photos of unknown lenses, and compare cameras and lenses with the ground truth.

    python -m scripts.benchmark.lenses --scene SCENE [--scene SCENE ...] --output-dir OUT [--peer]

Each scene is a folder with `images/` and `ground_truth.json`, such as those that `lens_sets.py` makes.
nope-splat is not told the lens. With `--peer`, COLMAP's incremental mapper runs on the same photos: with the
model that suits the true lens (OPENCV or OPENCV_FISHEYE), and with its default, SIMPLE_RADIAL.

Prints one Markdown table. "Lens error" is the root mean square angle between the estimated and the true rays
of all pixels, after the rotation that aligns them, in pixels of the image center. The models are kept in
`OUT`; run the same command again to continue.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import tyro
from scipy.spatial.transform import Rotation

from nope_splat import reconstruct
from nope_splat.errors import NopeSplatError
from nope_splat.evaluation.compare_cameras import compare_cameras
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.projection import is_visible
from nope_splat.io.cameras import NamedCamera, read_matching_cameras
from nope_splat.io.colmap import read_cameras
from nope_splat.io.export import write_colmap
from nope_splat.utils.terminal import set_up_terminal

COLUMNS = (
    "scene",
    "method",
    "registered",
    "AUC@5",
    "focal error %",
    "lens error px",
    "lens model",
    "seconds",
)
PEER_DEFAULT = "SIMPLE_RADIAL"
"""COLMAP's default lens model."""
GRID = 33
"""Number of pixels, along each image axis, at which lenses are compared."""


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of lenses."""

    scene: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder with `images/` and `ground_truth.json`; repeat the flag for several scenes."""
    output_dir: Path
    """Output folder. Models that it already contains are reused."""
    peer: bool = False
    """Also run COLMAP."""


def main(settings: Settings) -> None:
    """Measure every scene, and print the table.

    Args:
        settings: Settings of the benchmark.
    """
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for scene in settings.scene:
        methods: dict[str, Callable[[Path, Path], None]] = {"nope-splat": _reconstruct}
        if settings.peer:
            for model in (_true_model(scene), PEER_DEFAULT):
                methods[f"COLMAP, {model}"] = _colmap_method(model)
        for name, method in methods.items():
            folder = settings.output_dir / scene.resolve().name / name.replace(", ", "_")
            cells = [scene.resolve().name, name, *measure(scene, folder, method)]
            print("| " + " | ".join(cells) + " |", flush=True)


def measure(scene: Path, folder: Path, method: Callable[[Path, Path], None]) -> list[str]:
    """Run a method, unless its model exists, and compute the other columns of the table.

    Args:
        scene: Folder with `images/` and `ground_truth.json`.
        folder: Folder of the results of the method.
        method: Function that reconstructs the photos of a scene and writes a COLMAP model to a folder.
    """
    model, record = folder / "model", folder / "seconds.json"
    if not record.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        try:
            method(scene, model)
        except NopeSplatError as error:
            return ["0", "-", "-", "-", str(error.code), f"{time.perf_counter() - start:.0f}"]
        record.write_text(json.dumps(time.perf_counter() - start))
    cameras, truth = read_matching_cameras(model, scene / "ground_truth.json")
    metrics = compare_cameras(cameras, truth)
    models = sorted({camera.model for camera in read_cameras(model)[0].values()})
    return [
        f"{metrics.num_registered} of {metrics.num_images}",
        f"{metrics.auc_5:.2f}",
        f"{metrics.focal_error:+.2f}",
        f"{lens_error(cameras, truth, _image_size(scene)):.2f}",
        ", ".join(models),
        f"{json.loads(record.read_text()):.0f}",
    ]


def _reconstruct(scene: Path, model: Path) -> None:
    """Reconstruct the photos of a scene with nope-splat, and write a COLMAP model."""
    write_colmap(reconstruct(scene), model)


def _colmap_method(camera_model: str) -> Callable[[Path, Path], None]:
    """Return a function that runs COLMAP's incremental mapper with one camera of a given model."""

    def run(scene: Path, folder: Path) -> None:
        work, images, masks = folder.parent, scene / "images", scene / "masks"
        reader = pycolmap.ImageReaderOptions(camera_model=camera_model)
        if masks.is_dir():
            reader.mask_path = str(masks)
        pycolmap.set_random_seed(0)
        pycolmap.extract_features(
            work / "database.db",
            images,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            device=pycolmap.Device.cpu,
        )
        pycolmap.match_exhaustive(work / "database.db", device=pycolmap.Device.cpu)
        options = pycolmap.IncrementalPipelineOptions(min_model_size=3, random_seed=0)
        (work / "models").mkdir()
        models = pycolmap.incremental_mapping(work / "database.db", images, work / "models", options)
        if not models:
            raise NopeSplatError("no-cameras", "COLMAP finds no model")
        folder.mkdir()
        max(models.values(), key=lambda model: model.num_reg_images()).write(folder)

    return run


def lens_error(
    cameras: dict[str, NamedCamera], truth: dict[str, NamedCamera], size: tuple[int, int]
) -> float:
    """Compare estimated and true lenses.

    Args:
        cameras: Estimated cameras by image name.
        truth: True cameras of the same images.
        size: Width and height of the images in pixels.

    Returns:
        Root mean square angle between the rays of the same pixels, after the rotation that aligns them, times
        the true focal length; the mean over images.
    """
    errors, sizes = [], np.array(size)
    xy = np.stack(np.meshgrid(*(np.linspace(0, side, GRID) for side in size)), axis=-1).reshape(-1, 2)
    for name in cameras.keys() & truth.keys():
        estimated, true = (_in_pixels(camera[name], size) for camera in (cameras, truth))
        expected = true.unproject(xy, sizes)
        is_shown = is_visible(expected, true.is_fisheye)
        is_shown &= np.linalg.norm(true.project(expected, sizes) - xy, axis=1) < 1e-3
        rays, expected = (
            vectors[is_shown] / np.linalg.norm(vectors[is_shown], axis=1, keepdims=True)
            for vectors in (estimated.unproject(xy, sizes), expected)
        )
        distance = Rotation.align_vectors(rays, expected)[1]
        errors.append(true.focal * distance / np.sqrt(len(rays)))
    return float(np.mean(errors))


def _in_pixels(camera: NamedCamera, size: tuple[int, int]) -> Camera:
    """Return the intrinsics of a camera in pixels of an image of width and height `size`."""
    longer = max(size)
    offset = (longer * camera.offset[0], longer * camera.offset[1])
    return Camera(longer * camera.focal, offset, camera.distortion, camera.is_fisheye)


def _image_size(scene: Path) -> tuple[int, int]:
    """Read the image size of a scene from its ground truth, in pixels."""
    truth = json.loads((scene / "ground_truth.json").read_bytes())
    return truth["w"], truth["h"]


def _true_model(scene: Path) -> str:
    """Return the COLMAP model that suits the lens of a scene: OPENCV or OPENCV_FISHEYE."""
    truth = json.loads((scene / "ground_truth.json").read_bytes())
    return "OPENCV_FISHEYE" if "FISHEYE" in truth.get("camera_model", "OPENCV") else "OPENCV"


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Settings))
