"""Dense seeds for the Gaussians: a colored point for nearly every patch of the images."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nope_splat.seeding.depth_interpolation import interpolate_inverse_depth
from nope_splat.seeding.flow import agree, correspondences, triangulate
from nope_splat.seeding.fusion import DepthMap, fuse, in_free_space
from nope_splat.seeding.view import View
from nope_splat.seeding.view_selection import choose_partners
from nope_splat.sfm import Reconstruction
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.ranges import COUNT

ReadImage = Callable[[int, tuple[int, int]], tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]
"""Reads image `index` at `(width, height)`: RGB (H, W, 3); which pixels are used (H, W), if not all."""


@dataclass(frozen=True)
class SeedSettings:
    """How dense seeds are found."""

    max_image_size: Annotated[int, Ge(32)] = 512
    """Longer side in pixels at which the images are compared."""
    num_partners: Annotated[int, COUNT] = 3
    """Images that each image is compared with."""
    min_angle: Annotated[float, Interval(ge=0, le=90)] = 1.0
    """Smallest angle in degrees between two rays that is trusted to give depth."""
    cell: Annotated[int, COUNT] = 4
    """Width in pixels of the image patch that gets one seed."""


# The interpolation solves thousands of 2 x 2 systems; threads of a BLAS cost a hundred times their work.
@threadpool_limits.wrap(limits=1, user_api="blas")
def dense_seeds(
    scene: Reconstruction, read: ReadImage, settings: SeedSettings | None = None
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Find a dense, accurate point cloud of a reconstructed scene without learned weights.

    Tracks are interpolated to a rough depth, which optical flow between neighboring images makes
    exact; what does not agree forwards, backwards and with the epipolar geometry is dropped.

    Args:
        scene: The reconstruction; only its registered training images are read.
        read: Reads an image.
        settings: How to search.

    Returns:
        Points (P, 3) in world coordinates and RGB colors (P, 3). The track points are not among them.
    """
    settings = settings or SeedSettings()
    image_ids = np.flatnonzero(scene.registered & ~scene.held_out)
    views = [small_view(scene, image, read, settings.max_image_size) for image in image_ids]
    visibility = np.zeros((len(scene.image_names), len(scene.points)), bool)
    visibility[scene.observations.image_ids, scene.observations.point_ids] = True
    visibility = visibility[image_ids]
    centers = np.array([view.center for view in views])
    partners = choose_partners(centers, scene.points, visibility, settings.num_partners)

    with ThreadPoolExecutor() as pool:
        rough = list(pool.map(lambda view, seen: _rough_depth(view, scene.points[seen]), views, visibility))
        searched = [(i, int(j)) for i, others in enumerate(partners) for j in others]
        both_ways = sorted({*searched, *((j, i) for i, j in searched)})
        both_ways = [(i, j) for i, j in both_ways if rough[i] is not None and rough[j] is not None]
        maps = pool.map(lambda ij: correspondences(views[ij[0]], views[ij[1]], rough[ij[0]]), both_ways)
        flows = dict(zip(both_ways, maps, strict=True))

        def depth_map(i: int) -> DepthMap:
            found = [
                triangulate(views[i], views[j], flows[i, j], flows[j, i], settings.min_angle)
                for a, j in both_ways
                if a == i
            ]
            if not found:
                return np.zeros(views[i].shape, np.float32), np.zeros(views[i].shape, np.int64)
            depths, weights = zip(*found, strict=True)
            inverse_depth, count = agree(np.stack(depths), np.stack(weights))
            return inverse_depth, np.where(views[i].used, count, 0)

        found = pool.map(depth_map, range(len(views)))
        depth_maps = list(progress_bar(found, "Seeding photos", len(views)))

    points, colors, _ = fuse(views, depth_maps, settings.cell)
    kept = ~in_free_space(views, depth_maps, points)
    return points[kept], colors[kept]


def small_view(scene: Reconstruction, image_id: int, read: ReadImage, max_size: int) -> View:
    """A registered image at no more than a given size.

    Args:
        scene: The reconstruction.
        image_id: Index of the image.
        read: Reads it.
        max_size: Longer side in pixels.
    """
    size = scene.image_sizes[image_id]
    scale = min(1.0, max_size / size.max())
    width, height = (max(1, round(side * scale)) for side in size.tolist())
    T_camera_world = np.linalg.inv(scene.T_world_camera[image_id])
    image, used = read(int(image_id), (width, height))
    return View(
        image=np.ascontiguousarray(image),
        used=np.ones((height, width), bool) if used is None else used,
        R_camera_world=T_camera_world[:3, :3],
        t_camera_world=T_camera_world[:3, 3],
        focal=scene.camera_of(image_id).focal * scale,
        principal_point=scene.camera_of(image_id).principal_points(size) * scale,
    )


def _rough_depth(view: View, points: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """Interpolated inverse depth, or None for an image with too few points to interpolate."""
    xy, depth = view.project(points)
    inside = (depth > 0) & (xy >= 0).all(1) & (xy < view.shape[::-1]).all(1)
    if inside.sum() < 16:
        return None
    return interpolate_inverse_depth(xy[inside], 1 / depth[inside], view.shape)
