r"""Make scenes whose photos were taken through a given lens.

    python -m scripts.benchmark.lens_sets warp --scene SCENE --output-dir OUT --lens.distortion \
        -0.1 0.03 0 0 1e-3 1e-3
    python -m scripts.benchmark.lens_sets warp --scene SCENE --output-dir OUT --lens.fisheye \
        --lens.distortion 0.02 -0.01 0.003 0 0 0
    python -m scripts.benchmark.lens_sets widen --scene SCENE --output-dir OUT --field-of-view 120
    python -m scripts.benchmark.lens_sets demo --output-dir OUT --field-of-view 150

`warp` and `widen` resample the photos of a scene with known cameras. `warp` crops the photos such that every
pixel shows the scene; `widen` makes photos of a fisheye lens with a large field of view, and masks the pixels
that the source photos do not show. `demo` renders the demo scene through a lens. All three write
`OUT/images` and `OUT/ground_truth.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.lens_names import intrinsics_json
from nope_splat.io.cameras.entries import CameraEntry
from nope_splat.io.cameras.lenses import Lens
from nope_splat.io.cameras.read import read_camera_entries
from nope_splat.io.images import ImageFile, find_images, read_image
from nope_splat.utils.typing import Array

SUPERSAMPLING = 3
"""Number of samples per pixel along each image axis."""
BORDER = 0.5
"""Distance from the border of the source photo, in pixels, beyond which it is not sampled."""
JPEG_QUALITY = 95
"""Quality of the written photos. The photos have no EXIF data."""

Size = tuple[int, int]


@dataclass(frozen=True)
class LensSettings:
    """Lens through which the photos of `warp` are taken; the focal length is that of the source photos."""

    distortion: tuple[float, float, float, float, float, float] = (-0.1, 0.03, 0.0, 0.0, 1e-3, 1e-3)
    """Distortion coefficients k1, k2, k3, k4, p1 and p2 (see `Camera`)."""
    fisheye: bool = False
    """Whether the projection is equidistant instead of perspective."""


def warp(scene: Path, output_dir: Path, lens: LensSettings = LensSettings()) -> None:
    """Warp the photos of a scene so that they look as if taken through a given lens.

    The resolution at the principal point is that of the source photos. The photos are as large as possible
    without showing anything outside the source photos.

    Args:
        scene: Folder with `images` and the cameras of its photos (see `nope-splat compare-cameras`).
        output_dir: Output folder.
        lens: The lens.
    """

    def target(source: Lens, size: Size) -> tuple[Camera, Size]:
        offset = (source.center[0] - size[0] / 2, source.center[1] - size[1] / 2)
        camera = Camera(sum(source.focals) / 2, offset, lens.distortion, lens.fisheye)
        return camera, _largest_size(source, camera, size)

    _resample_scene(scene, output_dir, target)


def widen(scene: Path, output_dir: Path, field_of_view: float = 120.0, resolution: float = 1.0) -> None:
    """Place the photos of a scene in the center of photos of a fisheye lens with a large field of view.

    Pixels outside the source photos are black and masked, in `masks/`.

    Args:
        scene: Folder with `images` and the cameras of its photos (see `nope-splat compare-cameras`).
        output_dir: Output folder.
        field_of_view: Field of view of the fisheye lens along the diagonal, in degrees.
        resolution: Resolution at the principal point relative to the source photos.
    """

    def target(source: Lens, size: Size) -> tuple[Camera, Size]:
        focal = resolution * sum(source.focals) / 2
        diagonal = focal * np.radians(field_of_view)
        width, height = (round(float(side * diagonal / np.hypot(*size))) for side in size)
        return Camera(focal, is_fisheye=True), (width, height)

    _resample_scene(scene, output_dir, target)


def demo(output_dir: Path, field_of_view: float, num_images: int = 12) -> None:
    """Render the demo scene through a fisheye lens without distortion.

    Args:
        output_dir: Output folder.
        field_of_view: Field of view along the longer side of the photos, in degrees. Above 180 degrees, the
            photos are square.
        num_images: Number of photos.
    """
    size = (640, 640) if field_of_view > 180 else (640, 480)
    config = DemoSceneConfig(num_images, size, projection="fisheye", field_of_view=field_of_view)
    print(f"Wrote {num_images} photos to {render_demo_scene(output_dir, config).parent}")


def _resample_scene(
    scene: Path, output_dir: Path, target: Callable[[Lens, Size], tuple[Camera, Size]]
) -> None:
    """Resample the photos of a scene for other cameras, and write photos, masks and `ground_truth.json`.

    Args:
        scene: Folder with `images` and the cameras of its upright photos.
        output_dir: Output folder.
        target: Function that returns the new camera and image size for the lens and size of a photo.
    """
    (output_dir / "images").mkdir(parents=True, exist_ok=True)
    entries = {Path(name).name: entry for name, entry in read_camera_entries(_camera_file(scene)).items()}
    frames, common = [], None
    for image in find_images(scene / "images").images:
        if image.name not in entries:
            continue
        entry = entries[image.name]
        if entry.size not in (None, (image.width, image.height)):
            raise SystemExit(f"the camera of {image.name} is for photos of {entry.size} pixels")
        source = entry.lens_for((image.width, image.height))
        camera, size = target(source, (image.width, image.height))
        pixels, is_inside = resample(image, source, camera, size)
        name = f"{Path(image.name).stem}.jpg"
        Image.fromarray(pixels).save(output_dir / "images" / name, quality=JPEG_QUALITY)
        if not is_inside.all():
            (output_dir / "masks").mkdir(exist_ok=True)
            Image.fromarray(255 * is_inside.astype(np.uint8)).save(output_dir / "masks" / f"{name}.png")
        intrinsics = intrinsics_json(camera, size)
        common = common or intrinsics
        frames.append(_frame(name, entry, {} if intrinsics == common else intrinsics))
    note = "true cameras, for checks only; OpenCV camera axes: x right, y down, z forward"
    truth = {"note": note, **(common or {}), "frames": frames}
    (output_dir / "ground_truth.json").write_text(json.dumps(truth, indent=1))
    print(f"Wrote {len(frames)} photos to {output_dir}: {common}")


def _frame(name: str, entry: CameraEntry, intrinsics: dict[str, float | int | str]) -> dict[str, object]:
    """Return the entry of a photo in `ground_truth.json`."""
    pose = entry.T_world_camera.tolist()
    return {"file_path": f"images/{name}", "camera_to_world_opencv": pose, **intrinsics}


def _camera_file(scene: Path) -> Path:
    """Return the cameras of a scene: `ground_truth.json` if it exists, else the folder of the scene."""
    truth = scene / "ground_truth.json"
    return truth if truth.is_file() else scene


def resample(
    image: ImageFile, source: Lens, camera: Camera, size: Size
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Compute the photo that a camera takes in the place of the camera of a source photo.

    Each pixel is the mean of several samples, which are interpolated in the source photo by Lanczos' kernel.

    Args:
        image: The source photo.
        source: Lens of the source photo.
        camera: The camera.
        size: Width and height of the photo in pixels.

    Returns:
        Photo, RGB (H, W, 3), and whether all samples of each pixel are inside the source photo (H, W).
        Pixels that are not are black.
    """
    pixels = read_image(image)[..., :3]
    column, row = np.moveaxis(_source_pixels(source, camera, size), -1, 0)
    is_inside = (column > BORDER) & (column < image.width - BORDER)
    is_inside &= (row > BORDER) & (row < image.height - BORDER)
    column, row = (column - 0.5).astype(np.float32), (row - 0.5).astype(np.float32)
    samples = cv2.remap(pixels, column, row, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    blocks = (size[1], SUPERSAMPLING, size[0], SUPERSAMPLING)
    complete = is_inside.reshape(blocks).all(axis=(1, 3))
    mean = cv2.resize(samples, size, interpolation=cv2.INTER_AREA)
    return np.where(complete[..., None], mean, 0).astype(np.uint8), complete


@lru_cache(maxsize=1)  # most scenes have one camera
def _source_pixels(source: Lens, camera: Camera, size: Size) -> Array:
    """Compute the source pixels of `SUPERSAMPLING` x `SUPERSAMPLING` samples per pixel.

    Args:
        source: Lens of the source photo.
        camera: Camera of the new photo.
        size: Width and height of the new photo in pixels.

    Returns:
        Pixel coordinates, x then y; NaN for rays that the lens of the source photo does not show.
        (H SUPERSAMPLING, W SUPERSAMPLING, 2).
    """
    columns, rows = ((np.arange(side * SUPERSAMPLING) + 0.5) / SUPERSAMPLING for side in size)
    found = np.empty((len(rows), len(columns), 2))
    for block in np.array_split(np.arange(len(rows)), max(1, len(rows) // 64)):  # limits memory
        grid = np.stack(np.meshgrid(columns, rows[block]), axis=-1)
        found[block] = _lookup(source, camera, grid, size)
    return found


def _lookup(source: Lens, camera: Camera, xy: Array, size: Size) -> Array:
    """Compute the source pixels of pixels of a camera; NaN where there are none. (..., 2) -> (..., 2)."""
    rays = camera.unproject(xy, np.array(size))
    found = source.project(rays.reshape(-1, 3)).reshape(xy.shape)
    shown = camera.project(rays, np.array(size))
    is_found = (rays[..., 2] > 0) & (np.linalg.norm(shown - xy, axis=-1) < 1e-3)
    return np.where(is_found[..., None], found, np.nan)


def _largest_size(source: Lens, camera: Camera, size: Size) -> Size:
    """Compute the largest image size whose pixels all show the source photo, in steps of 1 %.

    Args:
        source: Lens of the source photo.
        camera: The camera.
        size: Width and height of the source photo in pixels.
    """
    for scale in np.arange(1.0, 0.2, -0.01):
        smaller = (2 * round(scale * size[0] / 2), 2 * round(scale * size[1] / 2))
        x, y = (np.linspace(0, side, 65) for side in smaller)
        border = [np.stack(np.broadcast_arrays(*sides), -1) for sides in ((x, 0), (x, smaller[1]), (0, y))]
        border.append(np.stack(np.broadcast_arrays(smaller[0], y), -1))
        found = _lookup(source, camera, np.concatenate(border), smaller)
        if np.all((found > BORDER) & (found < np.array(size) - BORDER)):
            return smaller
    raise SystemExit("the lens shows hardly anything of the photos")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"warp": warp, "widen": widen, "demo": demo})
