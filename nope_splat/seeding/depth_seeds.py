"""A seed for each patch of the images from depth maps: where Gaussians start without optical flow.

The idea is SPFSplat's (Huang and Mikolajczyk, arXiv 2508.01171): what a network says of each pixel gives a
Gaussian there, all of them in the one frame of the cameras. The pixel's footprint makes its size, confidence
its opacity.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nope_splat.depth import DepthMap, fit_scale_shift, on_depth_edge
from nope_splat.geometry.camera import SharedPinhole
from nope_splat.seeding.dense import ReadImage, SeedSettings, small_view
from nope_splat.seeding.fusion import fuse, in_free_space
from nope_splat.seeding.view import NEAREST_DEPTH, pixel_centers
from nope_splat.sfm import Reconstruction

logger = logging.getLogger(__name__)

Map = NDArray[np.float32]

CONFIRMED = 2
"""Number of partners that a depth map of its own right counts for."""


class PixelSeeds(NamedTuple):
    """Gaussians to start from."""

    points: NDArray[np.float64]
    """World coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """RGB. (P, 3)."""
    sizes: Map
    """Standard deviation in world units: half of what a seed's patch spans at its depth. (P,)."""
    opacities: Map
    """In 0 to 1, a half at the median confidence. (P,)."""


def pixel_seeds(
    scene: Reconstruction,
    lenses: Sequence[SharedPinhole],
    maps: Mapping[int, DepthMap],
    read: ReadImage,
    settings: SeedSettings | None = None,
) -> PixelSeeds:
    """Seed Gaussians on depth maps, each fitted to the track points that its image shows.

    Where several images show one surface, it is seeded once. Depth edges are left out, and what two
    other images see through.

    Args:
        scene: The reconstruction, of images without distortion.
        lenses: The cameras of the scene with the distortion that the depth maps have. (K,).
        maps: Depth maps of registered training images, by their indices.
        read: Reads an image.
        settings: Size of the images and of the patches.

    Returns:
        The seeds; none where no map fits its track points. The track points are not among them.
    """
    settings = settings or SeedSettings()
    views, depths, confidences = [], [], []
    for image_id, depth_map in maps.items():
        lens = lenses[scene.camera_ids[image_id]]
        fitted = _fitted(scene, lens, image_id, depth_map)
        if fitted is None:
            logger.warning(
                f"The depth map of {scene.image_names[image_id]} does not fit its track points: no seeds"
                " of it."
            )
            continue
        view = small_view(scene, image_id, read, settings.max_image_size)
        size = scene.image_sizes[image_id]
        centers = pixel_centers(view.shape) * (size / view.shape[::-1])
        places = lens.project(scene.camera_of(image_id).unproject(centers, size), size)
        depth = np.where(view.used, fitted.sample(places), np.nan)
        views.append(view)
        depths.append(np.where(depth > NEAREST_DEPTH, depth, np.nan))
        trust = fitted.confidence
        confidences.append(
            np.ones(view.shape) if trust is None else replace(fitted, values=trust).sample(places)
        )
    if not views:
        none = np.zeros(0, np.float32)
        return PixelSeeds(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), none, none)

    inverse = [
        (np.nan_to_num(1 / depth).astype(np.float32), CONFIRMED * np.isfinite(depth).astype(np.int64))
        for depth in depths
    ]
    points, colors, sources = fuse(views, inverse, settings.cell)
    kept = ~in_free_space(views, inverse, points)
    sizes, trust = np.zeros(len(points)), np.zeros(len(points))
    for index, view in enumerate(views):
        mine = sources[:, 0] == index
        pixels = tuple(sources[mine, 1:].T)
        sizes[mine] = settings.cell / view.focal * depths[index][pixels] / 2
        trust[mine] = confidences[index][pixels]
    trust, sizes = np.nan_to_num(trust[kept]), sizes[kept]
    # Confidence has the units of its source: the median gives the scale.
    opacities = trust / np.maximum(trust + np.median(trust), 1e-9) if len(trust) else trust
    return PixelSeeds(points[kept], colors[kept], sizes.astype(np.float32), opacities.astype(np.float32))


def _fitted(
    scene: Reconstruction, lens: SharedPinhole, image_id: int, depth_map: DepthMap
) -> DepthMap | None:
    """The map in world units without its depth edges, or None where it does not fit the track points."""
    seen = scene.observations
    mine = seen.image_ids == image_id
    size = scene.image_sizes[image_id]
    places = lens.project(scene.camera_of(image_id).unproject(seen.xy[mine], size), size)
    depth = scene.in_camera(seen)[mine, 2]
    fit = fit_scale_shift(depth_map.sample(places), depth, depth_map.kind)
    if fit is None:
        return None
    values = fit.depth(depth_map.values.astype(np.float64))
    values = np.where(on_depth_edge(values), np.nan, values).astype(np.float32)
    return replace(depth_map, values=values, kind="metric")
