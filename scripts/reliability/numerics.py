"""Image sets with difficult numerics: extreme lenses, planes, small baselines, few or small images, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from nope_splat.utils.typing import Array
from scripts.reliability.image_set import ImageSet, Scene, Variation, rendered
from scripts.reliability.ray_caster import PinholeView, Quad, box, look_at, quad
from scripts.reliability.repeated import ground_texture
from scripts.reliability.textures import Image, noise_texture, to_image

WIDTH, HEIGHT, FOCAL = 384, 288, 380.0
TARGET = (0, 0.2, 0.5)

TRUE_NOTICES = {
    "fov_120_degrees": frozenset({"implausible-focal-length"}),
    "fov_140_degrees": frozenset({"implausible-focal-length"}),
}
"""Codes of the notices that are true of honest sets."""

Build = Callable[[Variation], Scene]


def image_sets() -> list[ImageSet]:
    """Return all image sets of the family "numerics"."""
    sets = [rendered(name, "numerics", build) for name, build in _hard().items()]
    return sets + [
        rendered(name, "numerics", build, honest=True, causes=TRUE_NOTICES.get(name))
        for name, build in _easy().items()
    ]


def _hard() -> dict[str, Build]:
    """Return builders of scenes that hardly determine the cameras, or not at all, by name."""
    start = (0, -3.5, 1.5)
    return {
        "tele_600mm": partial(_tele, millimeters=600, distance=45, height=9, span=30),
        "tele_1200mm": partial(_tele, millimeters=1200, distance=90, height=18, span=30),
        "two_photographs": partial(_depth, poses=arc(2, 3.5, span=14)),
        "two_photographs_wide": partial(_depth, poses=arc(2, 3.5, span=40)),
        "two_photographs_forward": partial(
            _depth, poses=[look_at((0, -3.6, 1.5), (0, 0.2, 0.6)), look_at((0.02, -2.9, 1.45), (0, 0.2, 0.6))]
        ),
        "three_photographs": partial(_depth, poses=arc(3, 3.5, span=24)),
        "forward_motion_only": partial(
            _depth, poses=[look_at((0.02 * (i % 2), -4.2 + 0.18 * i, 1.5), (0, 4, 1.4)) for i in range(9)]
        ),
        "baseline_half_percent": partial(
            _depth,
            poses=[
                look_at((0.018 * i, -3.5 + 0.006 * (i % 2), 1.5 + 0.009 * (i % 3)), TARGET) for i in range(8)
            ],
        ),
        "baseline_tenth_percent": partial(
            _depth,
            poses=[
                look_at((0.0035 * i, -3.5, 1.5 + 0.002 * (i % 3)), (0.0035 * i, 0.2, 0.5)) for i in range(8)
            ],
        ),
        "burst_no_motion": partial(_depth, poses=[look_at(start, TARGET)] * 8),
        "burst_tiny_turns": partial(
            _depth,
            poses=[
                look_at((1e-5 * i, -3.5, 1.5), (0.01 * i, 0.2 + 0.004 * (i % 2), 0.5), roll=0.2 * i)
                for i in range(8)
            ],
        ),
        "burst_and_good": partial(
            _depth, poses=arc(5, 3.5, span=40) + [look_at(start, TARGET, roll=0.1 * i) for i in range(6)]
        ),
        "turn_on_spot_and_one_step": partial(
            _depth,
            poses=[look_at(start, (0.3 * (i - 3), 0.2, 0.5)) for i in range(7)]
            + [look_at((0.5, -3.4, 1.5), TARGET)],
        ),
        "plane_frontal_one_focal": _frontal_plane,
        "plane_95_percent": partial(_frontal_plane, with_box=True),
        "plane_aslant": _oblique_plane,
        "size_64": partial(_small, size=(64, 48), supersampling=4),
        "size_96": partial(_small, size=(96, 72), supersampling=4),
    }


def _easy() -> dict[str, Build]:
    """Return builders of unusual scenes that determine all cameras, by name."""
    rolled = [pose @ look_at_roll(90 * (i % 4)) for i, pose in enumerate(arc(10, 3.5))]
    sizes = (PinholeView(size=(HEIGHT, WIDTH)), PinholeView())
    return {
        "fov_90_degrees": partial(_wide, degrees=90, radius=2.5),
        "fov_120_degrees": partial(_wide, degrees=120, radius=2.0),
        "fov_140_degrees": partial(_wide, degrees=140, radius=1.6),
        "tele_200mm": partial(_tele, millimeters=200, distance=15, height=5, span=40),
        "size_128": partial(_small, size=(128, 96), supersampling=3),
        "portrait_landscape_mix": partial(_depth, poses=arc(10, 3.5), views=sizes),
        "aspect_8_to_1": partial(_depth, poses=arc(8, 3.0), views=(PinholeView(250, (512, 64)),)),
        "upside_down_rolls": partial(_depth, poses=rolled, views=(PinholeView(size=(320, 320)),)),
        "night_noise_20": partial(_depth, poses=arc(9, 3.5), process=_night),
    }


def arc(
    num_images: int, radius: float, height: float = 1.5, span: float = 60, target: tuple[float, ...] = TARGET
) -> list[Array]:
    """Place cameras on an arc around a target.

    Args:
        num_images: Number of cameras.
        radius: Radius of the arc, in world units.
        height: Height of every second camera, in world units; the cameras between them are 0.2 higher.
        span: Angle of the arc in degrees.
        target: World position at which all cameras look.
    """
    angles = np.radians(np.linspace(-span / 2, span / 2, num_images))
    return [
        look_at((radius * np.sin(angle), -radius * np.cos(angle), height + 0.2 * (i % 2)), target)
        for i, angle in enumerate(angles)
    ]


def look_at_roll(degrees: float) -> Array:
    """Build the transform that rotates a camera about its optical axis, by an angle in degrees. (4, 4)."""
    angle = np.radians(degrees)
    roll = np.eye(4)
    roll[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return roll


def _boxes(variation: Variation) -> list[Quad]:
    """Build three textured boxes on a textured ground."""
    quads = []
    for seed, center, half in (
        (0, (-0.9, 0.3, 0.4), (0.4, 0.4, 0.4)),
        (10, (0.7, -0.2, 0.6), (0.3, 0.5, 0.6)),
        (20, (0.1, 1.0, 0.8), (0.5, 0.2, 0.8)),
    ):
        quads += box(center, half, [noise_texture(variation.seed(seed + side)) for side in range(5)])
    return [*quads, quad((-4, -4, 0), (8, 0, 0), (0, 8, 0), ground_texture(variation))]


def _depth(
    variation: Variation,
    poses: Sequence[Array],
    views: tuple[PinholeView, ...] = (PinholeView(),),
    process: Callable[[Image, int], Image] | None = None,
) -> Scene:
    """Build three boxes in front of a wall.

    Args:
        variation: Variation of the set.
        poses: Camera-to-world transforms. (4, 4) each.
        views: Cameras (intrinsics), which consecutive images use in turn.
        process: Function that changes a rendered image, given the image and its index; None for no change.
    """
    wall = quad((-6, 4, 5), (12, 0, 0), (0, 0, -5), noise_texture(variation.seed(70), (700, 1400)))
    return Scene([[*_boxes(variation), wall]], poses, views, process)


def _wide(variation: Variation, degrees: float, radius: float) -> Scene:
    """Build the boxes, seen through a wide-angle lens with a horizontal field of view in degrees."""
    view = PinholeView(WIDTH / 2 / np.tan(np.radians(degrees / 2)))
    return _depth(variation, arc(9, radius), (view,))


def _tele(variation: Variation, millimeters: float, distance: float, height: float, span: float) -> Scene:
    """Build the boxes, seen from far away through a telephoto lens.

    Args:
        variation: Variation of the set.
        millimeters: Focal length in mm, for a sensor that is 36 mm wide.
        distance: Distance of the cameras from the boxes, in world units.
        height: Height of the cameras, in world units.
        span: Angle of the arc of cameras, in degrees.
    """
    view = PinholeView(WIDTH * millimeters / 36)
    return Scene([_boxes(variation)], arc(9, distance, height, span), (view,))


def _small(variation: Variation, size: tuple[int, int], supersampling: int) -> Scene:
    """Build the boxes, seen in small images."""
    return _depth(variation, arc(8, 3.5), (PinholeView(FOCAL * size[0] / WIDTH, size, supersampling),))


def _poster_wall(variation: Variation) -> Quad:
    return quad((-4, 2, 4), (8, 0, 0), (0, 0, -4), noise_texture(variation.seed(90), (700, 1400)))


def _frontal_plane(variation: Variation, with_box: bool = False) -> Scene:
    """Build a textured wall, seen frontally.

    Args:
        variation: Variation of the set.
        with_box: Whether a small box hangs on the wall, toward which the cameras are rotated slightly.
    """
    quads = [_poster_wall(variation)]
    if with_box:
        textures = [noise_texture(variation.seed(91 + side)) for side in range(5)]
        quads += box((0, 1.6, 2), (0.15, 0.15, 0.15), textures)
    poses = []
    for i in range(9):
        x = -1.2 + 0.3 * i
        target = -0.9 + 0.22 * i if with_box else x
        poses.append(look_at((x, -2 + 0.1 * (i % 2), 2 + 0.1 * (i % 3)), (target, 2, 2)))
    return Scene([quads], poses)


def _oblique_plane(variation: Variation) -> Scene:
    """Build a textured wall, seen from several directions."""
    poses = [look_at((-2.4 + 0.6 * i, -1.5 + 0.3 * (i % 2), 2 + 0.4 * (i % 3)), (0, 2, 2)) for i in range(9)]
    return Scene([[_poster_wall(variation)]], poses)


def _night(image: Image, index: int) -> Image:
    """Darken an image and add strong noise, seeded by its index."""
    noise = np.random.default_rng(index).normal(0, 8, image.shape)
    return to_image(0.25 * image.astype(np.float64) + noise)
