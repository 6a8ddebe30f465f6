"""Image sets made by editing images of a demo valley and of fountain-P11."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.io.cameras import read_ground_truth
from nope_splat.utils.typing import Array
from scripts.reliability import edits
from scripts.reliability.edits import Box, Edit
from scripts.reliability.image_set import (
    TRUTH,
    Family,
    ImageSet,
    Inputs,
    Truth,
    Variation,
    make_once,
    write_set,
)
from scripts.reliability.textures import Image, noise_texture

FOUNTAIN_SIZE = (480, 320)
MIRROR_X = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Edited:
    """Recipe that makes an image set from source images."""

    edit: Callable[[Variation], Edit]
    """Function that returns the edit of a variation."""
    copy: Callable[[Image], Image] | None = None
    """Function that makes a changed copy of an image, added to the set; None for a set without copies."""
    copy_every: int = 1
    """Interval of the copied images; 1 copies all images."""
    pose: Callable[[Array, int], Array] | None = None
    """Function that takes the true pose and the index of an image and returns the pose of the edited image;
    None for unchanged poses."""
    causes: frozenset[str] | None = None
    """Codes of the notices that name the cause of wrong cameras; None for the codes of the family."""


def image_sets() -> list[ImageSet]:
    """Return all image sets of edited images."""
    sets = []
    for source in ("valley", "fountain"):
        for name, (edited, honest) in _stationary().items():
            sets.append(_edited_set(source, name, "stationary", edited, honest))
    sets.append(_edited_set("valley", "ornamental_frame", "stationary", Edited(_frame)))
    sets += [
        _edited_set(
            "valley", f"moving_panel_{round(100 * share)}pct", "moving", Edited(partial(_panel, share))
        )
        for share in (0.1, 0.25, 0.5, 0.8)
    ]
    mirror = edits.by_image(lambda image: image[:, ::-1], every=2)
    half_mirrored = Edited(lambda _: mirror, pose=lambda pose, index: mirrored(pose) if index % 2 else pose)
    sets += [
        _edited_set(source, "half_mirrored", "mirrored", half_mirrored) for source in ("valley", "fountain")
    ]
    all_mirrored = edits.by_image(lambda image: image[:, ::-1])
    turned = edits.by_image(lambda image: image[::-1, ::-1], every=2)
    easy: list[tuple[str, str, Family, Edited]] = [
        ("valley", "all_mirrored", "mirrored", Edited(lambda _: all_mirrored, pose=lambda p, _: mirrored(p))),
        ("fountain", "half_upside_down", "numerics", Edited(lambda _: turned, pose=upside_down)),
        (
            "valley",
            "extreme_jpeg",
            "numerics",
            Edited(lambda _: edits.by_image(edits.low_quality), causes=frozenset({"uncertain-poses"})),
        ),
        ("valley", "rolling_exposure", "numerics", Edited(lambda _: edits.exposure)),
        ("valley", "every_photo_twice", "copies", Edited(_none, lambda image: image)),
        ("valley", "copies_resaved_brighter", "copies", Edited(_none, edits.brighter)),
        ("valley", "copies_half_size", "copies", Edited(_none, edits.half_size)),
        (
            "valley",
            "copies_cropped_same_size",
            "copies",
            Edited(_none, edits.enlarged_middle, 3, causes=frozenset({"mixed-cameras", "separated-cameras"})),
        ),
    ]
    sets += [_edited_set(*row, honest=True) for row in easy]
    crops = Edited(lambda _: edits.off_center_crop)
    return [*sets, _edited_set("valley", "cropped_off_centre", "numerics", crops)]


def mirrored(pose: Array) -> Array:
    """Convert the pose of an image to that of its mirror image in the mirrored world. (4, 4) -> (4, 4)."""
    return MIRROR_X @ pose @ MIRROR_X


def upside_down(pose: Array, index: int) -> Array:
    """Return the pose of an image if every second image is rotated by 180 degrees. (4, 4) -> (4, 4)."""
    return pose @ np.diag([-1.0, -1.0, 1.0, 1.0]) if index % 2 else pose


def _none(_: Variation) -> Edit:
    return edits.unchanged


def _frame(variation: Variation) -> Edit:
    return edits.ornamental_frame(variation.seed(400))


def _panel(share: float, variation: Variation) -> Edit:
    return edits.moving_panel(share, variation.seed(500))


def _dashboard(box: Box, variation: Variation) -> Edit:
    """Create an edit that pastes a texture into a box at the same pixels of all images.

    In odd variations, the box is mirrored to the other side of the image.
    """
    left, top, right, bottom = box
    if variation.index % 2:
        left, right = 1 - right, 1 - left
    texture = noise_texture(variation.seed(200), (200, 400), (3, 7, 20, 60))
    return edits.overlay(texture, (left, top, right, bottom))


def _stationary() -> dict[str, tuple[Edited, bool]]:
    """Return recipes that add content at the same pixels of all images, by name.

    The second element is whether the set is honest, that is, expected to be reconstructed without a notice.
    """
    black = np.zeros((8, 8, 3), np.uint8)
    hard: dict[str, Callable[[Variation], Edit]] = {
        "watermark_dense": lambda _: edits.watermark(14, 0.8),
        "logo_5pct": partial(_dashboard, (0.75, 0.78, 1, 1)),
        "logo_12pct": partial(_dashboard, (0.6, 0.7, 1, 1)),
        "dashboard_30pct": partial(_dashboard, (0, 0.7, 1, 1)),
        "dashboard_45pct": partial(_dashboard, (0, 0.55, 1, 1)),
        "dashboard_60pct": partial(_dashboard, (0, 0.4, 1, 1)),
        "screenshot_frame": lambda variation: edits.screenshot(variation.seed(300)),
        "collage_2x2": lambda _: edits.collage(3),
    }
    easy: dict[str, Callable[[Variation], Edit]] = {
        "plain": _none,
        "timestamp_small": lambda _: edits.timestamp("2026-11-28 14:03:{:02d}"),
        "timestamp_same": lambda _: edits.timestamp("2026-11-28 14:03", 26, (0.3, 0.88)),
        "watermark": lambda _: edits.watermark(6, 0.5),
        "dirt_25_spots": lambda variation: edits.lens_dirt(25, variation.seed(5)),
        "dirt_80_spots": lambda variation: edits.lens_dirt(80, variation.seed(5)),
        "letterbox": lambda _: edits.overlay(black, (0, 0, 1, 0.14)),
    }
    causes = {
        # The words of the watermark are a pattern that repeats.
        "watermark_dense": frozenset({"stationary-pixels", "repeated-pattern"}),
        # The parts of a collage move against each other.
        "collage_2x2": frozenset({"moving-objects"}),
        "timestamp_small": frozenset({"stationary-pixels"}),
        "timestamp_same": frozenset({"stationary-pixels"}),
    }
    sets = {name: (Edited(edit, causes=causes.get(name)), False) for name, edit in hard.items()}
    return {name: (Edited(edit, causes=causes.get(name)), True) for name, edit in easy.items()} | sets


def _edited_set(source: str, name: str, family: Family, edited: Edited, honest: bool = False) -> ImageSet:
    """Define a set of edited images of the valley or the fountain.

    Args:
        source: "valley" or "fountain".
        name: Name of the set, without the source.
        family: Family of the set.
        edited: Recipe of the set.
        honest: Whether all images must be registered correctly and without a notice.
    """

    def write(folder: Path, inputs: Inputs) -> None:
        images, truth = load_source(source, inputs)
        edit = edited.edit(inputs.variation)
        result: dict[str, Image] = {}
        poses: dict[str, Array] = {}
        for index, image_name in enumerate(images):
            result[image_name] = edit(list(images.values()), index)
            pose = truth.poses[image_name]
            poses[image_name] = edited.pose(pose, index) if edited.pose else pose
        if edited.copy is not None:
            copied = list(images.items())[:: edited.copy_every]
            result |= {f"zcopy_{image_name}": edited.copy(image) for image_name, image in copied}
        height, width = next(iter(result.values())).shape[:2]
        write_set(folder, result, Truth(poses, truth.focal, (width, height)))

    needs_data = source == "fountain"
    return ImageSet(f"{source}_{name}", family, write, honest, edited.causes, needs_data)


def load_source(source: str, inputs: Inputs) -> tuple[dict[str, Image], Truth]:
    """Load source images by name, and their true cameras.

    Args:
        source: "valley" (12 images of the demo scene) or "fountain" (fountain-P11, downscaled).
        inputs: Folders of the sources, and the variation.
    """
    if source == "fountain":
        assert inputs.data is not None
        folder, size = inputs.data / "fountain-P11", FOUNTAIN_SIZE
    else:
        folder, size = make_valley(inputs, 12, (384, 288)), (384, 288)
    truth = read_ground_truth(folder / TRUTH)
    images = {
        path.name: edits.resized(np.asarray(PillowImage.open(path).convert("RGB")), *size)
        for path in sorted((folder / "images").iterdir())
    }
    return images, Truth(truth.T_world_camera, truth.focal * size[0] / truth.size[0], size)


def make_valley(inputs: Inputs, num_images: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Render a demo valley, unless it exists already, and return its folder.

    Args:
        inputs: Folder of the sources, and the variation.
        num_images: Number of images.
        size: Width and height in pixels.
        seed: Random seed of the valley in variation 0.
    """
    seed = inputs.variation.seed(seed)
    config = DemoSceneConfig(num_images, size, seed)
    name = f"valley-{num_images}-{size[0]}x{size[1]}-{seed}"
    return make_once(inputs.sources / name, lambda folder: _render(folder, config))


def _render(folder: Path, config: DemoSceneConfig) -> None:
    render_demo_scene(folder, config)
