"""Image sets: what they are called, what is expected of them, and how their files are written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as PillowImage
from scipy.spatial.transform import Rotation

from nope_splat.utils.typing import Array
from scripts.reliability.ray_caster import PinholeView, Quad, render
from scripts.reliability.textures import Image

Family = Literal[
    "repeated",
    "symmetric",
    "stationary",
    "moving",
    "mirrored",
    "copies",
    "numerics",
    "known-cameras",
    "honest",
]
"""What misleads, or what the images are taken from."""

CAUSES: dict[str, frozenset[str]] = {
    "repeated": frozenset({"repeated-pattern", "duplicate-structure"}),
    "symmetric": frozenset({"duplicate-structure", "repeated-pattern"}),
    "stationary": frozenset({"stationary-pixels"}),
    "moving": frozenset({"moving-objects"}),
    "mirrored": frozenset({"mirrored-images"}),
    "copies": frozenset(),
    "numerics": frozenset({"uncertain-focal-length", "weak-support"}),
    "known-cameras": frozenset({"contradicting-known-cameras"}),
    "honest": frozenset(),
}
"""Codes of the notices that name the cause of wrong cameras, by family."""

KNOWN_CAMERAS = "cameras.json"
"""File of the cameras that the reconstruction of a set is given."""
TRUTH = "ground_truth.json"


@dataclass(frozen=True)
class Variation:
    """A variation of all sets: other textures, slightly other cameras. Variation 0 is the documented set."""

    index: int = 0
    """Number of the variation."""

    def seed(self, seed: int) -> int:
        """Return the seed of this variation in place of one of variation 0."""
        return seed + 1000 * self.index

    def perturb(self, poses: Sequence[Array]) -> list[Array]:
        """Move cameras by about 2 % of the largest distance between two, and turn them by about a degree.

        Cameras at one place stay at one place, and all cameras there stay unturned: a burst remains one.

        Args:
            poses: Camera-to-world transforms. (4, 4) each.
        """
        if self.index == 0:
            return list(poses)
        rng = np.random.default_rng(self.index)
        centers = np.array([pose[:3, 3] for pose in poses])
        extent = float(np.linalg.norm(centers[:, None] - centers, axis=-1).max())
        _, places = np.unique(centers, axis=0, return_inverse=True)
        places = places.reshape(-1)
        moves = rng.normal(0, 0.02 * extent / 3**0.5, (len(poses), 3))
        turns = rng.normal(0, 1 / 3**0.5, (len(poses), 3))
        result = []
        for pose, place in zip(poses, places, strict=True):
            pose = pose.copy()
            pose[:3, 3] += moves[place]
            if (places == place).sum() == 1:
                turn = Rotation.from_euler("xyz", turns[place], degrees=True).as_matrix()
                pose[:3, :3] = pose[:3, :3] @ turn
            result.append(pose)
        return result


@dataclass(frozen=True)
class Inputs:
    """What sets are made from."""

    data: Path | None
    """Folder with fountain-P11, Herz-Jesus-P8 and family; None if they are not available."""
    sources: Path
    """Folder of scenes that several sets are made from."""
    variation: Variation = Variation()
    """Variation to make."""


@dataclass(frozen=True)
class ImageSet:
    """A set of images to reconstruct."""

    name: str
    """Unique name."""
    family: Family
    """What misleads."""
    write: Callable[[Path, Inputs], None]
    """Function that writes images, truth and known cameras into an empty folder."""
    honest: bool = False
    """Whether all images must be registered, correctly and without a notice."""
    causes: frozenset[str] | None = None
    """Codes of the notices that name the cause; None for those of the family."""
    needs_data: bool = False
    """Whether the set is made from images of `Inputs.data`."""
    known_cameras: bool = False
    """Whether the reconstruction is given the cameras in `KNOWN_CAMERAS`."""
    max_keypoints: int | None = None
    """Maximum number of keypoints of an image; None for the default."""

    @property
    def cause_codes(self) -> frozenset[str]:
        """Codes of the notices that name the cause of wrong cameras."""
        return CAUSES[self.family] if self.causes is None else self.causes


@dataclass(frozen=True)
class Truth:
    """True cameras of a set."""

    poses: Mapping[str, Array]
    """Camera-to-world transforms by name, OpenCV axes. Images without one are not judged. (4, 4) each."""
    focal: float
    """Focal length in pixels."""
    size: tuple[int, int]
    """Width and height of the images in pixels."""

    def save(self, path: Path) -> None:
        """Write the file that `read_ground_truth` reads.

        Args:
            path: The file.
        """
        width, height = self.size
        frames = [
            {"file_path": f"images/{name}", "camera_to_world_opencv": pose.tolist()}
            for name, pose in self.poses.items()
        ]
        content = {"w": width, "h": height, "fl_x": self.focal, "fl_y": self.focal}
        path.write_text(
            json.dumps({**content, "cx": width / 2, "cy": height / 2, "frames": frames}, indent=1)
        )


@dataclass(frozen=True)
class Scene:
    """A scene to render."""

    quads: Sequence[Sequence[Quad]]
    """States of the scene, which the images show in turn; one for a static scene."""
    poses: Sequence[Array]
    """Camera-to-world transforms. (4, 4) each."""
    views: Sequence[PinholeView] = (PinholeView(),)
    """Cameras, which the images use in turn."""
    process: Callable[[Image, int], Image] | None = None
    """Change of every image, given its index."""


def rendered(
    name: str,
    family: Family,
    build: Callable[[Variation], Scene],
    honest: bool = False,
    causes: frozenset[str] | None = None,
) -> ImageSet:
    """Define a set of rendered images.

    Args:
        name: Name of the set.
        family: What misleads.
        build: Function that builds the scene.
        honest: See `ImageSet`.
        causes: See `ImageSet`.
    """

    def write(folder: Path, inputs: Inputs) -> None:
        scene = build(inputs.variation)
        scene = replace(scene, poses=inputs.variation.perturb(scene.poses))
        images = {}
        for index, pose in enumerate(scene.poses):
            quads, view = scene.quads[index % len(scene.quads)], scene.views[index % len(scene.views)]
            image = render(quads, pose, view, inputs.variation.seed(index))
            images[f"p{index:02d}.jpg"] = scene.process(image, index) if scene.process else image
        view = scene.views[0]
        write_set(folder, images, Truth(dict(zip(images, scene.poses, strict=True)), view.focal, view.size))

    return ImageSet(name, family, write, honest, causes)


def write_set(folder: Path, images: Mapping[str, Image], truth: Truth) -> None:
    """Write images and their truth.

    Args:
        folder: The folder of the set.
        images: Images by file name.
        truth: True cameras.
    """
    (folder / "images").mkdir(parents=True)
    for name, image in images.items():
        PillowImage.fromarray(image).save(folder / "images" / name, quality=95)
    truth.save(folder / TRUTH)


def make_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill a folder unless it exists; an interrupted attempt leaves no folder of that name.

    Args:
        folder: The folder.
        write: Function that fills an empty folder.
    """
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(folder)
    return folder
