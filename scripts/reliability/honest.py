"""Image sets without misleading content: real photos, and images of demo valleys."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from scripts.reliability.edited import make_valley
from scripts.reliability.image_set import TRUTH, ImageSet, Inputs

REAL_SCENES = ("fountain-P11", "Herz-Jesus-P8", "family")
NUM_VALLEYS, NUM_IMAGES, SIZE = 20, 10, (384, 288)


def image_sets() -> list[ImageSet]:
    """Return all image sets of the family "honest"."""
    real = [
        ImageSet(name, "honest", partial(_copy_scene, name), honest=True, needs_data=True)
        for name in REAL_SCENES
    ]
    valleys = [
        ImageSet(f"demo_valley_{seed:02d}", "honest", partial(_copy_valley, seed), honest=True)
        for seed in range(NUM_VALLEYS)
    ]
    return real + valleys


def photos(name: str, path: Path) -> ImageSet:
    """Define an image set of a user's photos, whose true cameras are unknown.

    Args:
        name: Name of the set.
        path: Folder of the photos, or folder that contains `images/`.
    """
    return ImageSet(name, "honest", lambda folder, _: _link_photos(path, folder), honest=True)


def _link_photos(path: Path, folder: Path) -> None:
    images = path / "images"
    (folder / "images").symlink_to((images if images.is_dir() else path).resolve())


def _copy_scene(name: str, folder: Path, inputs: Inputs) -> None:
    assert inputs.data is not None
    source = inputs.data / name
    _link_photos(source, folder)
    if (source / TRUTH).exists():
        shutil.copy(source / TRUTH, folder)


def _copy_valley(seed: int, folder: Path, inputs: Inputs) -> None:
    source = make_valley(inputs, NUM_IMAGES, SIZE, seed)
    _link_photos(source, folder)
    shutil.copy(source / TRUTH, folder)
