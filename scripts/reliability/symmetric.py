"""Image sets of objects that look the same from several sides, occur twice, or are moved."""

from __future__ import annotations

from functools import partial

import numpy as np

from nope_splat.utils.typing import Array
from scripts.reliability.image_set import ImageSet, Scene, Variation, rendered
from scripts.reliability.ray_caster import Quad, box, look_at, quad
from scripts.reliability.repeated import ground_texture
from scripts.reliability.textures import Image, noise_texture, plain_texture

MOVED = frozenset({"moving-objects", "duplicate-structure"})
STILL_PRISM = frozenset({"duplicate-structure", "stationary-pixels"})
"""On a circle around equal faces, the faces stand still while the ground moves."""


def image_sets() -> list[ImageSet]:
    """Return all image sets of the family "symmetric"."""
    scenes = {
        "box_same_4_sides_plain": partial(_box, same="4", top=False),
        "box_same_4_sides_top": partial(_box, same="4"),
        "box_same_2_opposite": partial(_box, same="2"),
        "box_same_4_sides_ground": partial(_box, same="4", contrast=1.0),
        "box_same_4_sides_faint_ground": partial(_box, same="4", contrast=0.15),
        "building_front_back_alike": _building,
        "building_front_back_alike_ground": partial(_building, ground=True),
        "prism_8_same_faces": _prism,
        "two_rooms_one_poster": _two_rooms,
        "two_rooms_one_poster_second_plain": partial(_two_rooms, second_plain=True),
    }
    easy = {
        "box_different_sides_ground": partial(_box, same="0", contrast=1.0),
        "building_different_sides_ground": partial(_building, ground=True, alike=False),
        "prism_8_different_faces_ground": partial(_prism, ground=True, alike=False),
    }
    return [
        *(rendered(name, "symmetric", build) for name, build in scenes.items()),
        rendered("prism_8_same_faces_ground", "symmetric", partial(_prism, ground=True), causes=STILL_PRISM),
        rendered("furniture_moved_plain_walls", "symmetric", partial(_moved, plain=True), causes=MOVED),
        rendered("furniture_moved_textured_walls", "symmetric", _moved, causes=MOVED),
        *(rendered(name, "symmetric", build, honest=True) for name, build in easy.items()),
    ]


def ring(num_images: int, radius: float = 4.0, height: float = 1.6) -> list[Array]:
    """Place cameras on a circle, looking at a point above its center.

    Args:
        num_images: Number of cameras.
        radius: Radius of the circle, in world units.
        height: Height of every second camera, in world units; the cameras between them are 0.25 higher.
    """
    angles = np.arange(num_images) * 2 * np.pi / num_images
    return [
        look_at((radius * np.cos(angle), radius * np.sin(angle), height + 0.25 * (i % 2)), (0, 0, 0.8))
        for i, angle in enumerate(angles)
    ]


def _lawn(texture: Image) -> Quad:
    return quad((-6, -6, 0), (12, 0, 0), (0, 12, 0), texture)


def _box(variation: Variation, same: str, top: bool = True, contrast: float | None = None) -> Scene:
    """Build a textured box, with cameras around it.

    Args:
        variation: Variation of the set.
        same: Number of sides with the same texture: "4", "2" (opposite sides) or "0".
        top: Whether the box has a textured top.
        contrast: Contrast of the ground's texture; None for no ground.
    """
    first, cover, second, fourth, third = (noise_texture(variation.seed(s)) for s in (21, 22, 23, 24, 25))
    sides = {
        "4": [first] * 4,
        "2": [first, second, first, fourth],
        "0": [first, second, third, fourth],
    }[same]
    quads = box((0, 0, 0.8), (0.8, 0.8, 0.8), sides + [cover] * top)
    if contrast is not None:
        quads.append(_lawn(ground_texture(variation, contrast)))
    return Scene([quads], ring(16))


def _building(variation: Variation, ground: bool = False, alike: bool = True) -> Scene:
    """Build a long building whose two ends differ, with cameras around it.

    Args:
        variation: Variation of the set.
        ground: Whether the building stands on a textured ground.
        alike: Whether front and back have the same texture.
    """
    seed = variation.seed
    front = noise_texture(seed(31), (256, 768))
    back = front if alike else noise_texture(seed(35), (256, 768))
    ends = [noise_texture(seed(s)) for s in (32, 33, 34)]
    quads = box((0, 0, 1), (3, 0.8, 1), [front, ends[0], back, ends[1], ends[2]])
    if ground:
        quads.append(_lawn(ground_texture(variation)))
    poses = [
        look_at((6.5 * np.cos(angle), 5 * np.sin(angle), 1.6 + 0.2 * (i % 2)), (0, 0, 0.9))
        for i, angle in enumerate(np.radians(np.arange(18) * 20))
    ]
    return Scene([quads], poses)


def _prism(variation: Variation, ground: bool = False, alike: bool = True) -> Scene:
    """Build a prism with eight faces, with cameras around it.

    Args:
        variation: Variation of the set.
        ground: Whether the prism stands on a textured ground.
        alike: Whether all faces have the same texture.
    """
    corners = [np.array([np.cos(a), np.sin(a), 0]) for a in np.radians(45 * np.arange(9))]
    quads = [
        quad(
            corners[face] + [0, 0, 1.6],
            corners[face + 1] - corners[face],
            (0, 0, -1.6),
            noise_texture(variation.seed(21 if alike else 300 + face)),
        )
        for face in range(8)
    ]
    return Scene([quads + [_lawn(ground_texture(variation))] * ground], ring(16))


def _walls(x: float, textures: list[Image]) -> list[Quad]:
    """Build two walls and the floor of a room that starts at the world coordinate x."""
    return [
        quad((x, 2, 3), (5, 0, 0), (0, 0, -3), textures[0]),
        quad((x, -2, 3), (0, 4, 0), (0, 0, -3), textures[1]),
        quad((x, -2, 0), (5, 0, 0), (0, 4, 0), textures[2]),
    ]


def _poster(variation: Variation, x: float, z: float = 2.4) -> Quad:
    return quad((x, 1.97, z), (1.4, 0, 0), (0, 0, -1.2), noise_texture(variation.seed(50)))


def _furniture(variation: Variation, seed: int, x: float, y: float) -> list[Quad]:
    """Build a textured box on the floor, at the world coordinates (x, y)."""
    textures = [noise_texture(variation.seed(seed + side)) for side in range(5)]
    return box((x, y, 0.5), (0.4, 0.4, 0.5), textures)


def _room(variation: Variation, seed: int, x: float) -> list[Quad]:
    """Build a room with a box and a poster; the poster is the same in all rooms."""
    walls = _walls(x, [noise_texture(variation.seed(seed + k)) for k in range(3)])
    return [*walls, *_furniture(variation, seed + 3, x + 3, 0.8), _poster(variation, x + 1.2)]


def _two_rooms(variation: Variation, second_plain: bool = False) -> Scene:
    """Build two separate rooms with the same poster, with cameras in both rooms.

    Args:
        variation: Variation of the set.
        second_plain: Whether the second room has walls and a floor without texture.
    """
    second = _room(variation, 71, 100)
    if second_plain:
        furniture = _furniture(variation, 80, 103, 0.8)
        second = [*_walls(100, [plain_texture()] * 3), *furniture, _poster(variation, 101.2)]
    poses = [
        look_at((x + 3.6 - 0.25 * i, -1.6 + 0.05 * i, 1.3 + 0.15 * (i % 2)), (x + 1.8 + 0.1 * i, 1.6, 1.3))
        for x in (0, 100)
        for i in range(6)
    ]
    return Scene([_room(variation, 61, 0) + second], poses)


def _moved(variation: Variation, plain: bool = False) -> Scene:
    """Build a room in which a box and a poster alternate between two positions from image to image.

    Args:
        variation: Variation of the set.
        plain: Whether walls and floor have no texture.
    """
    textures = [plain_texture() if plain else noise_texture(variation.seed(61 + k)) for k in range(3)]
    walls = _walls(0, textures)
    before = [*walls, *_furniture(variation, 64, 3, 0.8), _poster(variation, 1.2)]
    after = [*walls, *_furniture(variation, 64, 1.6, 0.3), _poster(variation, 3.2, 2.0)]
    poses = [
        look_at((3.8 - 0.22 * i, -1.6 + 0.04 * i, 1.3 + 0.15 * (i % 2)), (2.2, 1.6, 1.2)) for i in range(10)
    ]
    return Scene([after, before], poses)
