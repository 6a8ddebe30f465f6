"""Image sets: names, families, expectations, and writing of their files."""

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
"""Family of an image set: the kind of misleading content, the kind of input that is wrong ("known-cameras"),
or "honest" without misleading content."""

CAUSES: dict[str, frozenset[str]] = {
    "repeated": frozenset({"repeated-pattern", "duplicate-structure"}),
    "symmetric": frozenset({"duplicate-structure", "repeated-pattern"}),
    "stationary": frozenset({"stationary-pixels"}),
    "moving": frozenset({"moving-objects"}),
    "mirrored": frozenset({"mirrored-images"}),
    "copies": frozenset(),
    "numerics": frozenset(
        {"uncertain-focal-length", "mixed-cameras", "separated-cameras", "uncertain-poses", "weak-support"}
    ),
    "known-cameras": frozenset({"contradicting-known-cameras"}),
    "honest": frozenset(),
}
"""Codes of the notices that name the cause of wrong cameras, by family of the image set."""

KNOWN_CAMERAS = "cameras.json"
"""Name of the file with the known cameras that are passed to the reconstruction of a set."""
TRUTH = "ground_truth.json"


@dataclass(frozen=True)
class Variation:
    """Variation of all image sets, with other textures and slightly other cameras.

    Variation 0 is the documented set.
    """

    index: int = 0
    """Index of the variation."""

    def seed(self, seed: int) -> int:
        """Convert a random seed of variation 0 to a random seed of this variation."""
        return seed + 1000 * self.index

    def perturb(self, poses: Sequence[Array]) -> list[Array]:
        """Move cameras by about 2 % of the largest distance between them, and rotate them by about 1 degree.

        Several cameras at the same position are moved together and not rotated, so that a burst remains a
        burst. Variation 0 leaves all cameras unchanged.

        Args:
            poses: Camera-to-world transforms, OpenCV axes. (4, 4) each.
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
    """Inputs from which image sets are made."""

    data: Path | None
    """Folder with the scenes fountain-P11, Herz-Jesus-P8 and family; None if they are not available."""
    sources: Path
    """Folder for rendered scenes from which several image sets are made."""
    variation: Variation = Variation()
    """Variation of the image sets to make."""


@dataclass(frozen=True)
class ImageSet:
    """Definition of an image set to reconstruct."""

    name: str
    """Unique name of the set."""
    family: Family
    """Family of the set, which says what is misleading."""
    write: Callable[[Path, Inputs], None]
    """Function that writes images, true cameras and known cameras into an empty folder."""
    honest: bool = False
    """Whether the set contains nothing misleading, so that all images must be registered correctly and
    without a notice other than `causes`."""
    causes: frozenset[str] | None = None
    """Codes of the notices that name the cause of wrong cameras, or that are true of an honest set; None for
    the codes of the family, or for no codes if the set is honest."""
    needs_data: bool = False
    """Whether the set is made from images in `Inputs.data`."""
    known_cameras: bool = False
    """Whether the cameras in `KNOWN_CAMERAS` are passed to the reconstruction."""
    max_keypoints: int | None = None
    """Maximum number of keypoints per image; None for the default of the reconstruction."""

    @property
    def cause_codes(self) -> frozenset[str]:
        """Codes of the notices that name the cause of wrong cameras, or that are true of an honest set."""
        if self.causes is None:
            return frozenset() if self.honest else CAUSES[self.family]
        return self.causes


@dataclass(frozen=True)
class Truth:
    """True cameras of an image set."""

    poses: Mapping[str, Array]
    """Camera-to-world transforms by image name, OpenCV axes. Images without a pose are not judged. (4, 4)
    each."""
    focal: float
    """Focal length in pixels."""
    size: tuple[int, int]
    """Width and height of the images in pixels."""

    def save(self, path: Path) -> None:
        """Write the true cameras to a `ground_truth.json` file.

        Args:
            path: Path of the file.
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
    """Scene to render, with its cameras."""

    quads: Sequence[Sequence[Quad]]
    """States of the scene, each a list of quads. Consecutive images show consecutive states; a static scene
    has one state."""
    poses: Sequence[Array]
    """Camera-to-world transforms, one per image, OpenCV axes. (4, 4) each."""
    views: Sequence[PinholeView] = (PinholeView(),)
    """Cameras (intrinsics). Consecutive images use consecutive cameras."""
    process: Callable[[Image, int], Image] | None = None
    """Function that changes a rendered image, given the image and its index; None for no change."""


def rendered(
    name: str,
    family: Family,
    build: Callable[[Variation], Scene],
    honest: bool = False,
    causes: frozenset[str] | None = None,
) -> ImageSet:
    """Define an image set that is rendered from a scene.

    Args:
        name: Name of the set.
        family: Family of the set.
        build: Function that builds the scene of a variation.
        honest: Whether the set contains nothing misleading.
        causes: Codes of the notices that name the cause of wrong cameras; None for the codes of the family.
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
    """Write the images of a set and their true cameras.

    Args:
        folder: Folder of the set.
        images: Images by file name.
        truth: True cameras of the images.
    """
    (folder / "images").mkdir(parents=True)
    for name, image in images.items():
        PillowImage.fromarray(image).save(folder / "images" / name, quality=95)
    truth.save(folder / TRUTH)


def make_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Create a folder with contents, unless it exists already.

    If writing is interrupted, no folder of this name is left.

    Args:
        folder: Path of the folder, which is returned.
        write: Function that writes the contents into an empty folder.
    """
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(folder)
    return folder
