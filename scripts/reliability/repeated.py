"""Image sets of repeated patterns, such as facades: cameras may be off by a period."""

from __future__ import annotations

from functools import partial

from nope_splat.utils.typing import Array
from scripts.reliability.image_set import ImageSet, Scene, Variation, rendered
from scripts.reliability.ray_caster import Quad, box, look_at, quad
from scripts.reliability.textures import Image, noise_texture, plain_texture, repeat, window_texture

WIDTH, HEIGHT = 16.0, 6.0
"""Width and height of the facade in world units; a window is one unit wide."""
FINE = (3, 6, 12, 30)
"""Cell sizes of the noise octaves of wallpaper and carpet, in texels."""


def image_sets() -> list[ImageSet]:
    """Return all image sets of the family "repeated"."""
    scenes = {
        "facade_identical": partial(_facade, ground=None),
        "facade_identical_plain_ground": _facade,
        "facade_identical_textured_ground": partial(_facade, ground="textured"),
        "facade_one_door": partial(_facade, door=True),
        "facade_relief_identical": partial(_facade, relief=True),
        "facade_relief_ground": partial(_facade, relief=True, ground="textured"),
        "facade_step_of_one_window": partial(_facade, step=1.0),
        "wallpaper_corner": _wallpaper_corner,
        "carpet": _carpet,
        "corridor_identical_doors": _corridor,
    }
    easy = {"facade_unique": _unique_facade, "corridor_unique": partial(_corridor, unique=True)}
    sets = [rendered(name, "repeated", build) for name, build in scenes.items()]
    return sets + [rendered(name, "repeated", build, honest=True) for name, build in easy.items()]


def ground_texture(variation: Variation, contrast: float = 1.0) -> Image:
    """Create a texture like grass or, with reduced contrast, like a street.

    Args:
        variation: Variation of the set.
        contrast: Factor on the contrast.
    """
    tint = (90, 110, 60) if contrast == 1.0 else None
    return noise_texture(variation.seed(1), (1024, 1024), (6, 14, 40, 120), contrast, tint)


def _along_facade(step: float, num_images: int = 10) -> list[Array]:
    """Place cameras along the facade, looking slightly ahead. (4, 4) each.

    Args:
        step: Distance between neighboring cameras, in windows.
        num_images: Number of cameras.
    """
    return [
        look_at(
            (3.0 + step * i, -5.0 - 0.5 * (i % 3), 1.8 + 0.3 * (i % 2)),
            (4.0 + step * i + 0.4 * (i % 2), 0, 2.6),
        )
        for i in range(num_images)
    ]


def _facade(
    variation: Variation,
    ground: str | None = "plain",
    step: float = 0.9,
    door: bool = False,
    relief: bool = False,
) -> Scene:
    """Build a facade of identical windows, with cameras along it.

    Args:
        variation: Variation of the set.
        ground: Texture of the street: "plain", "textured" or None for no street.
        step: Distance between neighboring cameras, in windows.
        door: Whether the facade has a door, which does not repeat.
        relief: Whether there is a pillar in front of every window.
    """
    windows = repeat(window_texture(variation.seed(3)), 6, 16)
    if door:
        windows[-128:, 420:520] = noise_texture(variation.seed(77), (128, 100))
    quads = _wall(windows)
    if ground is not None:
        texture = plain_texture() if ground == "plain" else ground_texture(variation)
        quads.append(quad((-4, -8, 0), (WIDTH + 8, 0, 0), (0, 8, 0), texture))
    if relief:
        pillar = window_texture(variation.seed(8))
        for i in range(int(WIDTH)):
            quads += box((i + 0.5, -0.35, 1.0), (0.18, 0.3, 1.0), [pillar] * 5)
    return Scene([quads], _along_facade(step))


def _wall(texture: Image) -> list[Quad]:
    return [quad((0, 0, HEIGHT), (WIDTH, 0, 0), (0, 0, -HEIGHT), texture)]


def _unique_facade(variation: Variation) -> Scene:
    """Build a facade with pillars, on which nothing repeats."""
    seed = variation.seed
    quads = [
        *_wall(noise_texture(seed(3), (384, 1024))),
        quad((-4, -8, 0), (WIDTH + 8, 0, 0), (0, 8, 0), ground_texture(variation)),
    ]
    for i in range(int(WIDTH)):
        sides = [noise_texture(seed(200 + 5 * i + side), (128, 64)) for side in range(5)]
        quads += box((i + 0.5, -0.35, 1.0), (0.18, 0.3, 1.0), sides)
    return Scene([quads], _along_facade(0.9))


def _wallpaper_corner(variation: Variation) -> Scene:
    """Build two walls with the same wallpaper, which meet in a corner, and a floor without texture."""
    paper = repeat(noise_texture(variation.seed(5), (96, 96), FINE), 8, 12)
    quads = [
        quad((0, 0, 3), (6, 0, 0), (0, 0, -3), paper),
        quad((0, -6, 3), (0, 6, 0), (0, 0, -3), paper),
        quad((0, -6, 0), (6, 0, 0), (0, 6, 0), plain_texture()),
    ]
    poses = [
        look_at((2.2 + 0.25 * i, -3.5 + 0.2 * i, 1.4 + 0.1 * (i % 2)), (0.6 + 0.2 * i, -0.6 + 0.05 * i, 1.4))
        for i in range(9)
    ]
    return Scene([quads], poses)


def _carpet(variation: Variation) -> Scene:
    """Build a carpet with a repeated pattern, seen at an angle."""
    carpet = repeat(noise_texture(variation.seed(6), (96, 96), FINE), 12, 12)
    poses = [
        look_at((-3 + 0.6 * i, -4 + 0.2 * (i % 3), 2.2 + 0.2 * (i % 2)), (-1 + 0.6 * i, 0, 0))
        for i in range(10)
    ]
    return Scene([[quad((-8, -8, 0), (16, 0, 0), (0, 16, 0), carpet)]], poses)


def _corridor(variation: Variation, unique: bool = False) -> Scene:
    """Build a corridor with identical doors, with cameras along it.

    Args:
        variation: Variation of the set.
        unique: Whether the walls and the floor have textures that do not repeat.
    """
    seed = variation.seed
    left = right = repeat(window_texture(seed(11)), 2, 20)
    floor = repeat(window_texture(seed(12)), 3, 20)
    if unique:
        left, right, floor = (
            noise_texture(seed(s), (rows, 1280)) for s, rows in ((11, 128), (13, 128), (12, 192))
        )
    quads = [
        quad((0, -1.5, 2.6), (20, 0, 0), (0, 0, -2.6), left),
        quad((20, 1.5, 2.6), (-20, 0, 0), (0, 0, -2.6), right),
        quad((0, -1.5, 0), (20, 0, 0), (0, 3, 0), floor),
        quad((20, -1.5, 2.6), (0, 3, 0), (0, 0, -2.6), noise_texture(seed(9))),
    ]
    poses = [
        look_at((1 + 1.1 * i, -0.3 + 0.25 * (i % 3), 1.4 + 0.1 * (i % 2)), (9 + 1.1 * i, 0, 1.3))
        for i in range(10)
    ]
    return Scene([quads], poses)
