"""Dense seeds from optical flow: at most one colored 3D point per cell of a grid over each image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nope_splat.seeding.depth_interpolation import interpolate_inverse_depth
from nope_splat.seeding.flow import match_by_flow, merge_estimates, triangulate_flow
from nope_splat.seeding.fusion import InverseDepthMap, fuse_depth_maps, violates_free_space
from nope_splat.seeding.settings import InterpolationConfig, SeedSettings
from nope_splat.seeding.view import Float32Array, ReadImage, SeedingView, load_view
from nope_splat.seeding.view_selection import select_source_views
from nope_splat.sfm import Reconstruction
from nope_splat.utils.progress import progress_bar


# The interpolation solves thousands of 2x2 systems; with BLAS threads, each takes a hundred times as long.
@threadpool_limits.wrap(limits=1, user_api="blas")
def dense_seeds(
    scene: Reconstruction, read: ReadImage, settings: SeedSettings | None = None
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """Compute a dense, colored point cloud of a reconstructed scene by optical flow, without a network.

    In each image, inverse depth is interpolated between the track points and refined by optical flow to
    source views. Pixels that fail the forward-backward check or the epipolar constraint are discarded. The
    resulting depth maps are fused into one point cloud, and points in free space are removed.

    Args:
        scene: The reconstruction, with undistorted cameras. Only registered training images are used.
        read: Function that reads an undistorted image at a given size (see `ReadImage`).
        settings: Resolution and thresholds; default settings if None.

    Returns:
        Points in world coordinates (P, 3) and their RGB colors from 0 to 255 (P, 3). The track points are not
        included.
    """
    settings = settings or SeedSettings()
    image_ids = np.flatnonzero(scene.registered & ~scene.held_out)
    views = [load_view(scene, image_id, read, settings.max_image_size) for image_id in image_ids.tolist()]
    visibility = np.zeros((len(scene.image_names), len(scene.points)), bool)
    visibility[scene.observations.image_ids, scene.observations.point_ids] = True
    visibility = visibility[image_ids]
    centers = np.array([view.center for view in views])
    source_views = select_source_views(
        centers, scene.points, visibility, settings.num_source_views, settings.view_selection
    )
    with ThreadPoolExecutor() as pool:
        interpolated = list(
            pool.map(
                lambda view, visible: _interpolated(view, scene.points[visible], settings.interpolation),
                views,
                visibility,
            )
        )
        depth_maps = _depth_maps(pool, views, interpolated, source_views, settings)
    points, colors, _ = fuse_depth_maps(views, depth_maps, settings.cell_size, settings.fusion)
    kept = ~violates_free_space(views, depth_maps, points, settings.fusion)
    return points[kept], colors[kept]


def _interpolated(
    view: SeedingView, points: NDArray[np.floating], config: InterpolationConfig
) -> Float32Array | None:
    """Interpolate the inverse depth of an image between its visible track points.

    Args:
        view: The image with its camera.
        points: World coordinates of the track points that the image observes. (P, 3).
        config: Options of the interpolation.

    Returns:
        Inverse depth of each pixel, in inverse world units. (H, W). None if too few points project into the
        image.
    """
    xy, depth = view.project(points)
    inside = (depth > 0) & (xy >= 0).all(1) & (xy < view.shape[::-1]).all(1)
    if inside.sum() < config.min_points:
        return None
    return interpolate_inverse_depth(xy[inside], 1 / depth[inside], view.shape, config)


def _depth_maps(
    pool: ThreadPoolExecutor,
    views: list[SeedingView],
    interpolated: list[Float32Array | None],
    source_views: list[NDArray[np.int64]],
    settings: SeedSettings,
) -> list[InverseDepthMap]:
    """Compute one depth map per view from the optical flow between the view and its source views.

    A pair of a view and its source view contributes to the depth maps of both. Pairs are skipped if one of
    the two views has too few track points.

    Args:
        pool: Threads for the computation.
        views: The N views.
        interpolated: Interpolated inverse depth of each view (H, W); None for views with too few track
            points.
        source_views: For each view, the indices of its source views in `views`.
        settings: Resolution and thresholds.

    Returns:
        The depth map of each view. A view without a usable pair has an empty depth map: depth is unknown at
        all pixels.
    """
    pairs = {(i, int(j)) for i, sources in enumerate(source_views) for j in sources}
    pairs = sorted(pairs | {(j, i) for i, j in pairs})
    pairs = [(i, j) for i, j in pairs if interpolated[i] is not None and interpolated[j] is not None]

    def match(pair: tuple[int, int]) -> Float32Array:
        inverse_depth = interpolated[pair[0]]
        assert inverse_depth is not None
        return match_by_flow(views[pair[0]], views[pair[1]], inverse_depth)

    flows = dict(zip(pairs, pool.map(match, pairs), strict=True))

    def depth_map(i: int) -> InverseDepthMap:
        view = views[i]
        estimates = [
            triangulate_flow(view, views[j], flows[i, j], flows[j, i], settings.min_tri_angle, settings.flow)
            for first, j in pairs
            if first == i
        ]
        if not estimates:
            return InverseDepthMap(np.zeros(view.shape, np.float32), np.zeros(view.shape, np.int64))
        inverse_depths, weights = (np.stack(values) for values in zip(*estimates, strict=True))
        merged = merge_estimates(inverse_depths, weights, settings.flow.max_relative_difference)
        return InverseDepthMap(merged.values, np.where(view.mask, merged.num_consistent, 0))

    return list(progress_bar(pool.map(depth_map, range(len(views))), "Seeding photos", len(views)))
