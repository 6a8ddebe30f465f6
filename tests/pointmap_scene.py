"""Spheres before a curved wall, and a network that says what they look like, with its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.io.images import Photo
from nope_splat.matching.dust3r import View

Array = NDArray[np.float64]
SIZE = (400, 300)
CAMERA = SharedPinhole(420.0)
SPHERES = [(-0.7, 0.0, -0.1, 0.55), (0.6, -0.3, 0.2, 0.5), (0.1, -0.9, -0.5, 0.35), (0.2, 0.6, 0.7, 0.4)]
"""Centre and radius of each."""


def ray_cast(T_world_camera: Array, photo: Photo, view: View) -> Array:
    """World points that the pixels of a view show: spheres before a curved wall. (H, W, 3)."""
    height, width = view.shape
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    rays = CAMERA.unproject(view.to_photo(grid), np.array([photo.width, photo.height]))
    directions = rays @ T_world_camera[:3, :3].T
    origin = T_world_camera[:3, 3]
    depth = np.full(directions.shape[:2], np.inf)
    for *center, radius in [*SPHERES, (0.0, -7.0, 0.0, 9.5)]:  # the wall is a sphere around everything
        offset = origin - center
        a, b = (directions**2).sum(-1), directions @ offset
        root = b**2 - a * (offset @ offset - radius**2)
        near, far = ((-b + sign * np.sqrt(np.maximum(root, 0))) / a for sign in (-1, 1))
        reached = np.where(near > 0, near, far)
        depth = np.where((root > 0) & (reached > 0), np.minimum(depth, reached), depth)
    return origin + depth[..., None] * directions


def grey_photos(folder: Path, num_photos: int, upright: Sequence[int] = ()) -> list[Photo]:
    """Photographs without any texture."""
    sizes = [SIZE[::-1] if i in upright else SIZE for i in range(num_photos)]
    photos = [
        Photo(folder / f"{i}.png", f"{i}.png", width, height) for i, (width, height) in enumerate(sizes)
    ]
    for photo in photos:
        Image.new("RGB", (photo.width, photo.height), "grey").save(photo.path)
    return photos


@dataclass
class FakeNetwork:
    """Says what a good network would of photographs with known cameras, with its errors."""

    T_world_camera: Array
    noise: float = 0.01
    """Along the rays, as a share of the depth."""
    across: float = 0.0
    """Across them, likewise."""

    def predict(
        self, photos: Sequence[Photo], views: Sequence[View], pairs: Sequence[tuple[int, int]], weights: str
    ) -> Iterator[Any]:
        """Stands in for `dust3r.predict`."""
        rng = np.random.default_rng(0)
        worlds = [ray_cast(*each) for each in zip(self.T_world_camera, photos, views, strict=True)]
        for first, second in pairs:
            yield tuple(
                tuple(self._say(worlds[photo], self.T_world_camera[frame], scale, rng) for photo in order)
                for order, scale in zip(
                    ((first, second), (second, first)), np.exp(rng.normal(0, 0.3, 2)), strict=True
                )
                for frame in order[:1]
            )

    def _say(self, world: Array, frame: Array, scale: float, rng: np.random.Generator) -> Any:
        """Points with smooth and with rough noise along and across the rays, wrong ones, and some NaN."""
        points = (world - frame[:3, 3]) @ frame[:3, :3]
        shape = world.shape[:2]

        def error() -> Array:
            smooth = gaussian_filter(rng.normal(size=shape), 12)
            return smooth / smooth.std() + 0.2 * rng.normal(size=shape)

        points *= 1 + self.noise * error()[..., None]
        if self.across:
            ray = points / np.linalg.norm(points, axis=-1, keepdims=True)
            aside = np.stack([error() for _ in range(3)], axis=-1)
            aside -= (aside * ray).sum(-1, keepdims=True) * ray
            points += self.across * points[..., 2:] * aside
        confidence = np.full(shape, 5.0)
        wrong = rng.random(shape) < 0.02
        points[wrong] *= rng.uniform(0.5, 2.0, (int(wrong.sum()), 1))
        confidence[wrong & (rng.random(shape) < 0.5)] = 1.1
        points[rng.random(shape) < 0.002] = np.nan
        return scale * points, confidence
