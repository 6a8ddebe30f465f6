"""Readers to fuzz: which valid files each reader gets, how they are damaged, and how they are read."""

from __future__ import annotations

import json
import math
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.evaluation.compare_cameras import compare_cameras, focal_errors
from nope_splat.io.cameras import NamedCamera, read_ground_truth, read_matching_cameras
from nope_splat.io.export import colmap_model, summarize
from nope_splat.io.images import find_images, read_image, read_mask
from nope_splat.matching.database import MatchDatabase
from nope_splat.plugin.load_run import open_run, optimized_scene
from nope_splat.report import render_page
from nope_splat.scene.consistency import consistent_reconstruction
from nope_splat.sfm.camera_assignment import assign_cameras, find_lenses, upright_from_sensor
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.utils.cache import KEY_ENTRY, Cache
from scripts.analysis.fuzz_seeds import CHECKPOINT, KEY, Seeds
from scripts.analysis.mutations import mutate_array, mutate_bytes, mutate_text, mutate_tree

MAX_EXIF_BYTES = 60_000
"""Maximum size of damaged EXIF data; JPEG files cannot hold more than 64 KiB."""
REPORT_SHARE = 0.05
"""Fraction of the accepted runs for which a report is rendered. Rendering a report takes a second."""


@dataclass(frozen=True)
class Reader:
    """Reader of files, together with valid files for it."""

    source: str
    """Subfolder of the seeds that contains the reader's valid files."""
    damage: Callable[[Path, random.Random], None]
    """Function that damages one file in a copy of the `source` folder, given the folder and a random number
    generator."""
    read: Callable[[Seeds, Path], None]
    """Function that reads the files in a folder, given the valid files of all formats and the folder."""

    def write_valid(self, seeds: Seeds, folder: Path) -> Path:
        """Copy the valid files to a folder.

        Args:
            seeds: Valid files.
            folder: Folder for the copy.

        Returns:
            The folder of the copy.
        """
        shutil.copytree(seeds.folder / self.source, folder, dirs_exist_ok=True)
        return folder

    def write(self, seeds: Seeds, folder: Path, rng: random.Random) -> None:
        """Copy the valid files to a folder, and damage one of them.

        Args:
            seeds: Valid files.
            folder: Folder for the files.
            rng: Random number generator.
        """
        self.damage(self.write_valid(seeds, folder), rng)


def damage_bytes(folder: Path, rng: random.Random, pattern: str = "*") -> None:
    """Change random bytes of one file in a folder.

    Args:
        folder: Folder, searched recursively.
        rng: Random number generator.
        pattern: Pattern of the file's name.
    """
    file = rng.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))
    file.write_bytes(mutate_bytes(file.read_bytes(), rng))


def damage_text(folder: Path, rng: random.Random, pattern: str = "*") -> None:
    """Change random words and lines, or sometimes bytes, of one text file in a folder.

    Args:
        folder: Folder, searched recursively.
        rng: Random number generator.
        pattern: Pattern of the file's name.
    """
    if rng.random() < 0.2:
        return damage_bytes(folder, rng, pattern)
    file = rng.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))
    file.write_bytes(mutate_text(file.read_text("utf8"), rng).encode("utf8", "surrogatepass"))


def damage_json(folder: Path, rng: random.Random) -> None:
    """Change random values, or sometimes the text, of a JSON file.

    Args:
        folder: Folder that contains only JSON files, searched recursively.
        rng: Random number generator.
    """
    if rng.random() < 0.3:
        return damage_text(folder, rng, "*.json")
    file = rng.choice(sorted(folder.rglob("*.json")))
    file.write_text(json.dumps(mutate_tree(json.loads(file.read_text()), rng)))


def damage_arrays(folder: Path, rng: random.Random) -> None:
    """Change a random array of one cached file, or the JSON text in the file.

    Args:
        folder: Folder of the cache.
        rng: Random number generator.
    """
    file = rng.choice(sorted(folder.iterdir()))
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = rng.choice(sorted(arrays.keys() - {KEY_ENTRY}))
    if name == "plain" and rng.random() < 0.8:
        arrays[name] = np.array(json.dumps(mutate_tree(json.loads(arrays[name].item()), rng)))
    elif rng.random() < 0.1:
        del arrays[name]
    else:
        arrays[name] = mutate_array(arrays[name], rng)
    np.savez(file, **arrays)


def damage_checkpoint(folder: Path, rng: random.Random) -> None:
    """Change random values of a checkpoint, or sometimes bytes of the file or of an archive member.

    Args:
        folder: Folder of the run.
        rng: Random number generator.
    """
    file = folder / CHECKPOINT
    kind = rng.random()
    if kind < 0.1:
        damage_bytes(file.parent, rng)
    elif kind < 0.3:
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice([name for name in members if name.endswith(".pkl") or rng.random() < 0.1])
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in (members | {name: mutate_bytes(members[name], rng)}).items():
                archive.writestr(member, content)
    else:
        torch.save(_as_tensors(mutate_tree(torch.load(file, weights_only=True), rng)), file)


def _as_tensors(tree: Any) -> Any:
    """Convert arrays in nested dictionaries and lists to tensors."""
    if isinstance(tree, Mapping):
        return {key: _as_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_as_tensors(value) for value in tree]
    return torch.from_numpy(np.ascontiguousarray(tree)) if isinstance(tree, np.ndarray) else tree


def read_cameras(seeds: Seeds, folder: Path, name: str = "") -> None:
    """Read cameras, compare them with the cameras of the seeds, and use them as known cameras.

    Args:
        seeds: Valid files.
        folder: Folder of the cameras: a COLMAP model, or a folder that contains a JSON file.
        name: Name of the JSON file; empty for a COLMAP model.

    Raises:
        NopeSplatError: If reading or using the cameras is refused.
        ValueError: If a metric of the comparison is not finite.
    """
    scene, path = seeds.scene, folder / name
    cameras, _ = read_matching_cameras(path, seeds.folder / "transforms" / "transforms.json")
    held_out = np.zeros(len(scene.image_names), bool)
    steps: list[Callable[[], Any]] = [
        lambda: _check_comparison(cameras, seeds.cameras),
        lambda: _check_comparison(seeds.cameras, cameras),
        lambda: KnownCameras.read(path, seeds.images, held_out, scene.camera_ids),
        lambda: read_ground_truth(path) if name == "ground_truth.json" else None,
    ]
    refused = None
    for step in steps:
        try:
            step()
        except NopeSplatError as error:
            refused = error
    if refused is not None:
        raise refused


def _check_comparison(estimated: dict[str, NamedCamera], reference: dict[str, NamedCamera]) -> None:
    metrics = compare_cameras(estimated, reference)
    errors = [error.percent for error in focal_errors(estimated, reference)]
    figures = metrics.auc_5, metrics.auc_30, metrics.focal_error, *errors
    if not all(map(math.isfinite, figures)):
        raise ValueError("a metric is not finite")


def read_images(seeds: Seeds, folder: Path) -> None:
    """Find images, and read them with their masks. Damaged images must be skipped.

    Args:
        seeds: Valid files; two of their images are copied to the folder.
        folder: Folder with images.
    """
    for image in sorted((seeds.folder / "demo" / "images").iterdir())[:2]:
        shutil.copy(image, folder)
    found = find_images(folder)
    if any("\n" in reason for reason in found.skipped.values()):
        raise ValueError("a reason has several lines")
    for image in found.images:
        pixels, mask = read_image(image), read_mask(image)
        if pixels.shape[:2] != (image.height, image.width) or pixels.dtype != np.uint8:
            raise ValueError("an image has another size or type")
        if mask is not None and mask.shape != pixels.shape[:2]:
            raise ValueError("a mask has another size")


def read_cache(seeds: Seeds, folder: Path) -> None:
    """Load cached results, and use them. Damaged results count as missing.

    Args:
        seeds: Valid files (not used).
        folder: Folder of the cache.
    """
    del seeds
    cache = Cache(folder)
    scene = cache.load("scene", KEY, consistent_reconstruction)
    cache.load("matches", KEY, MatchDatabase.from_arrays)
    if scene is not None:
        summarize(scene)
        colmap_model(scene.undistorted())


def read_run(seeds: Seeds, folder: Path) -> None:
    """Open a run, compute its optimized scene, and sometimes render its report.

    Args:
        seeds: Valid files.
        folder: Folder of the run.
    """
    seeds.isolate()
    run = open_run(folder / "config.yml")
    colmap_model(optimized_scene(run.pipeline))
    if random.random() < REPORT_SHARE:
        render_page(run)


def damage_image(folder: Path, rng: random.Random) -> None:
    """Keep four random images with changed bytes, and remove the others. Sometimes one image becomes a mask.

    Args:
        folder: Folder with images.
        rng: Random number generator.
    """
    kept = rng.sample(sorted(folder.iterdir()), 4)
    for file in folder.iterdir():
        if file in kept:
            file.write_bytes(mutate_bytes(file.read_bytes(), rng))
        else:
            file.unlink()
    if rng.random() < 0.2:
        (folder / "masks").mkdir()
        kept[0].rename(folder / "masks" / "photo_000.png")


def damage_exif(folder: Path, rng: random.Random) -> None:
    """Change bytes of the EXIF data of one random image, and leave the rest of its file as it is.

    Args:
        folder: Folder with images.
        rng: Random number generator.
    """
    file = rng.choice(sorted(folder.iterdir()))
    with Image.open(file) as image:
        exif, pixels = image.getexif().tobytes(), image.copy()
    header = b"Exif\0\0"
    damaged = header + mutate_bytes(exif.removeprefix(header), rng)[:MAX_EXIF_BYTES]
    pixels.save(file, exif=damaged)


def read_exif_data(seeds: Seeds, folder: Path) -> None:
    """Read images with their EXIF data, and assign them to cameras.

    Args:
        seeds: Valid files.
        folder: Folder with images.
    """
    read_images(seeds, folder)
    images = find_images(folder).images
    camera_ids = assign_cameras(images)
    focals = [lens.focal for lens in find_lenses(images, camera_ids) if lens.focal is not None]
    if not (np.isfinite(focals).all() and np.isfinite(upright_from_sensor(images, camera_ids)).all()):
        raise ValueError("a camera is not finite")


READERS = {
    "colmap_binary": Reader("colmap_binary", partial(damage_bytes, pattern="[ci]*"), read_cameras),
    "colmap_text": Reader("colmap_text", partial(damage_text, pattern="[ci]*"), read_cameras),
    "transforms": Reader("transforms", damage_json, partial(read_cameras, name="transforms.json")),
    "ground_truth": Reader("ground_truth", damage_json, partial(read_cameras, name="ground_truth.json")),
    "colmap_lenses": Reader("colmap_lenses", partial(damage_text, pattern="[ci]*"), read_cameras),
    "fisheye": Reader("fisheye", damage_json, partial(read_cameras, name="transforms.json")),
    "realityscan": Reader("realityscan", damage_text, partial(read_cameras, name="cameras.csv")),
    "metashape": Reader("metashape", damage_text, partial(read_cameras, name="cameras.xml")),
    "opensfm": Reader("opensfm", damage_json, partial(read_cameras, name="reconstruction.json")),
    "polycam": Reader("polycam", damage_json, read_cameras),
    "images": Reader("formats", damage_image, read_images),
    "videos": Reader("videos", damage_bytes, read_images),
    "exif": Reader("exif", damage_exif, read_exif_data),
    "cache_bytes": Reader("cache", damage_bytes, read_cache),
    "cache_arrays": Reader("cache", damage_arrays, read_cache),
    "config": Reader("run", partial(damage_text, pattern="config.yml"), read_run),
    "checkpoint": Reader("run", damage_checkpoint, read_run),
}
"""All readers to fuzz, by name."""
