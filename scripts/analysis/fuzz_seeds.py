"""Valid files of a small scene in every format that nope-splat reads: the inputs that fuzzing mutates."""

from __future__ import annotations

import io
import shutil
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.io.cameras import NamedCamera, read_named_cameras
from nope_splat.io.export import write_colmap, write_transforms
from nope_splat.io.images import ImageFile, find_images
from nope_splat.matching.database import CACHE_STAGE
from nope_splat.plugin import dataparser
from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.sfm import Reconstruction, reconstruct
from nope_splat.sfm.checks import check_sfm_options
from nope_splat.utils.cache import KEY_ENTRY, Cache
from nope_splat.utils.device_defaults import resolve_defaults
from scripts.analysis.fuzz_cameras import write_camera_files

KEY = "0" * 64
"""Cache key under which the files in the cache folder are stored."""
CHECKPOINT = "nerfstudio_models/step-000000009.ckpt"
"""Path of the checkpoint, relative to the folder of a run."""
SIZE = (240, 180)
"""Width and height of the demo images in pixels."""


@dataclass(frozen=True)
class Seeds:
    """Valid files of one small scene, from which damaged files are made."""

    folder: Path
    """Folder with one subfolder of valid files per format."""

    @cached_property
    def scene(self) -> Reconstruction:
        """Reconstruction of the scene."""
        return Reconstruction.load(self.folder / "scene.npz")

    @cached_property
    def images(self) -> tuple[ImageFile, ...]:
        """Images of the scene."""
        return find_images(self.folder / "demo").images

    @cached_property
    def cameras(self) -> dict[str, NamedCamera]:
        """Cameras of the reconstruction, by image name."""
        return read_named_cameras(self.folder / "transforms" / "transforms.json")

    def isolate(self) -> None:
        """Replace the dataparser's image search and reconstruction in this process by those of the seeds."""

        def reconstruct_nothing(folder: Any, held_out: Any, options: Any, cache_dir: Any) -> Reconstruction:
            check_sfm_options(options)
            return self.scene

        dataparser.reconstruct = reconstruct_nothing
        dataparser.find_images = lambda *_: find_images(self.folder / "demo")


def make_seeds(folder: Path) -> Seeds:
    """Render and reconstruct a demo scene, and write the results in every format.

    Args:
        folder: An empty folder for the files.

    Returns:
        The valid files.
    """
    images = render_demo_scene(folder / "demo", DemoSceneConfig(num_images=9, size=SIZE))
    for name in ("cache", "transforms", "ground_truth", "formats", "videos", "exif", "run"):
        (folder / name).mkdir()
    names = sorted(image.name for image in images.iterdir())
    scene = reconstruct(images, names[::8], cache_dir=folder / "demo_cache")
    scene.save(folder / "scene.npz")
    seeds = Seeds(folder)
    write_camera_files(scene, folder)
    write_colmap(scene, folder / "colmap_binary")
    write_colmap(scene, folder / "colmap_text", text=True)
    write_transforms(scene, images, folder / "transforms" / "transforms.json")
    (folder / "transforms" / "sparse_pc.ply").unlink()
    shutil.copy(folder / "demo" / "ground_truth.json", folder / "ground_truth")
    (matches,) = (folder / "demo_cache").glob(f"{CACHE_STAGE}-*.npz")
    with np.load(matches) as file:
        arrays = {name: file[name] for name in file.files if name != KEY_ENTRY}
    Cache(folder / "cache").store("scene", KEY, scene.to_arrays())
    Cache(folder / "cache").store("matches", KEY, arrays)
    small = Image.open(next(images.iterdir())).resize((64, 48))
    _encode_images(small, folder / "formats")
    _encode_videos(small, folder / "videos")
    _add_exif(small, folder / "exif")
    _make_run(seeds, folder / "run")
    return seeds


def _encode_videos(image: Image.Image, folder: Path) -> None:
    """Encode a camera motion over an image in several formats."""
    for name in ("clip.mp4", "clip.mkv", "clip.avi"):
        with av.open(folder / name, "w") as container:
            stream = container.add_stream("mpeg4" if name == "clip.avi" else "libx264", rate=30)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
            for shift in range(16):
                cropped = image.convert("RGB").crop((shift, 0, shift + stream.width, stream.height))
                container.mux(stream.encode(av.VideoFrame.from_image(cropped)))
            container.mux(stream.encode(None))


def _add_exif(image: Image.Image, folder: Path) -> None:
    """Save an image with the EXIF data of a phone as JPEG, PNG and WebP."""
    tags, gps = ExifTags.Base, ExifTags.GPS
    exif = Image.Exif()
    exif.update(
        {tags.Orientation: 6, tags.Make: "Maker", tags.Model: "Phone", tags.DateTime: "2026:11:30 12:00:00"}
    )
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            tags.FocalLength: IFDRational(57, 10),
            tags.FocalLengthIn35mmFilm: 26,
            tags.DigitalZoomRatio: IFDRational(12, 10),
            tags.LensModel: "back camera 5.7mm f/1.8",
            tags.ExposureTime: IFDRational(1, 60),
            tags.FNumber: IFDRational(18, 10),
            tags.ISOSpeedRatings: 200,
            tags.DateTimeOriginal: "2026:11:30 12:00:00",
            tags.ColorSpace: 1,
        }
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {
            gps.GPSLatitudeRef: "N",
            gps.GPSLatitude: (48.0, 8.0, 6.5),
            gps.GPSLongitudeRef: "E",
            gps.GPSLongitude: (11.0, 34.0, 30.0),
            gps.GPSAltitude: IFDRational(519),
        }
    )
    for name in ("photo.jpg", "photo.png", "photo.webp"):
        image.save(folder / name, exif=exif.tobytes())


def _encode_images(image: Image.Image, folder: Path) -> None:
    """Save an image in all formats that this installation of Pillow can write."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    alpha = image.convert("RGBA")
    alpha.putalpha(image.convert("L"))
    gray = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    variants: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("plain.jpg", "JPEG", image, {}),
        ("turned.jpg", "JPEG", image, {"exif": exif}),
        ("progressive.jpg", "JPEG", image, {"progressive": True}),
        ("cmyk.jpg", "JPEG", image.convert("CMYK"), {}),
        ("plain.png", "PNG", image, {}),
        ("alpha.png", "PNG", alpha, {}),
        ("16 bit.png", "PNG", gray, {}),
        ("palette.png", "PNG", image.quantize(16), {"transparency": 3}),
        ("plain.webp", "WEBP", image, {}),
        ("alpha.webp", "WEBP", alpha, {"lossless": True}),
        *(
            (f"{name}.tif", "TIFF", image, {"compression": name})
            for name in ("raw", "tiff_lzw", "jpeg", "zstd")
        ),
        ("16 bit.tif", "TIFF", gray, {}),
        ("gif.png", "GIF", image, {}),
        ("bmp.png", "BMP", image, {}),
        ("ppm.png", "PPM", image, {}),
        ("jpeg2000.jpg", "JPEG2000", image, {}),
        ("avif.jpg", "AVIF", image, {}),
        ("heif.heic", "HEIF", image, {}),
    ]
    for name, file_format, variant, options in variants:
        content = io.BytesIO()
        try:
            variant.save(content, file_format, **options)
        except (KeyError, OSError, ValueError):
            continue
        (folder / name).write_bytes(content.getvalue())


def _make_run(seeds: Seeds, folder: Path) -> None:
    """Save a run with a config and a checkpoint, but without training."""
    seeds.isolate()
    config = deepcopy(nope_splat.config)
    assert isinstance(config, NopeTrainerConfig)
    config.pipeline.datamanager.data = seeds.folder / "demo"
    config.pipeline.datamanager.dataparser.seeds = "tracks"
    config.output_dir, config.machine.device_type, config.max_num_iterations = folder, "cpu", 500
    resolve_defaults(config, "cpu")
    text = yaml.dump(config)
    pipeline: Any = config.pipeline.setup(device="cpu", test_mode="val")
    pipeline.history.record(0, {"psnr": 20.0})
    (folder / "config.yml").write_text(text)
    (folder / CHECKPOINT).parent.mkdir()
    torch.save({"step": 9, "pipeline": pipeline.state_dict()}, folder / CHECKPOINT)
