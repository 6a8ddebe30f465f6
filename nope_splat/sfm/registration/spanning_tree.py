"""Registration by chaining relative poses along the maximum spanning tree of the match graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Annotated

import numpy as np

from nope_splat.scene.tracks import maximum_spanning_forest
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.registration.incremental import IncrementalRegistration
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import filter_observations, triangulate
from nope_splat.sfm.two_view_geometry import TwoViews
from nope_splat.utils.ranges import COUNT, POSITIVE


@dataclass(frozen=True)
class SpanningTreeRegistration:
    """Chain relative poses along the maximum spanning tree of the match graph; suited to little overlap."""

    max_reproj_error: Annotated[float, POSITIVE] = 8.0
    """Maximum reprojection error of an observation, in pixels of the image in which keypoints are detected;
    observations with a larger error are removed. It is large because chained poses drift."""
    min_num_shared_points: Annotated[int, COUNT] = 5
    """Minimum number of points that a pair must share with earlier pairs to determine its scale; with fewer
    points, the scale of the preceding pair is used."""

    def register(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register images by the relative poses along the maximum spanning tree, then bundle-adjust.

        Each relative pose is scaled so that keypoints shared with earlier pairs keep their depth. Compared to
        incremental registration, this requires less overlap but a more accurate initial focal length.

        Args:
            state: State without poses; changed in place.
            two_views: Relative poses and inlier matches of the image pairs.
            options: Options of triangulation and bundle adjustment.
            seed: Not used, because the method is deterministic.

        Returns:
            An empty dictionary, because every image of the tree is registered.
        """
        chain_poses(state, two_views, self.min_num_shared_points)
        triangulate(state, self.max_reproj_error, options.min_tri_angle)
        state.rescale()
        state.bundle_adjust(BundleAdjustmentOptions(device=options.ba_device))
        filter_observations(state, self.max_reproj_error, options.min_tri_angle)
        return {}

    def register_remaining(
        self, state: SfmState, two_views: TwoViews, options: MapperOptions, seed: int = 0
    ) -> dict[int, str]:
        """Register the remaining images one by one in a state with poses (arguments as in `register`)."""
        return IncrementalRegistration().register_remaining(state, two_views, options, seed)


def chain_poses(state: SfmState, two_views: TwoViews, min_num_shared: int) -> None:
    """Chain scaled relative poses along the maximum spanning tree, in place.

    Args:
        state: State without poses.
        two_views: Relative poses and inlier matches of the image pairs.
        min_num_shared: Minimum number of keypoints of known depth to determine the scale of the next pair;
            with fewer keypoints, the scale of the preceding pair is used.
    """
    depth = np.full(len(state.xy), np.nan)
    scale = 1.0
    num_matches = {pair: len(two_view) for pair, two_view in two_views.items()}
    for number, (known, new) in enumerate(spanning_tree(num_matches, len(state.registered))):
        _, T_new_known, keypoints, depths = two_views[min(known, new), max(known, new)].from_image(known)
        if number == 0:
            state.registered[known] = True
        rows = np.stack(
            [state.observations_of(known, keypoints[:, 0]), state.observations_of(new, keypoints[:, 1])],
            axis=1,
        )
        tracked = (rows >= 0).all(1)
        rows, depths = rows[tracked], depths[tracked]
        ratio = depth[rows[:, 0]] / depths[:, 0]
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) >= min_num_shared:
            scale = float(np.median(ratio))  # otherwise keep the scale of the last pair
        unknown = np.isnan(depth[rows])
        depth[rows[unknown]] = scale * depths[unknown]
        T_scaled = T_new_known.copy()
        T_scaled[:3, 3] *= scale
        state.T_camera_world[new] = T_scaled @ state.T_camera_world[known]
        state.registered[new] = True


def spanning_tree(num_matches: Mapping[tuple[int, int], int], num_images: int) -> list[tuple[int, int]]:
    """Compute the edges of a maximum spanning tree that starts at the image with the most matches.

    The tree contains all images that are connected with this image by pairs with matches.

    Args:
        num_matches: Number of matches of each image pair; keys are image indices, smaller index first.
        num_images: Number of images.

    Returns:
        Edges in the order of Prim's algorithm, each as (image that is already in the tree, new image).
    """
    edges = np.array(list(num_matches), np.int64).reshape(-1, 2)
    weights = np.array(list(num_matches.values()), np.float64)
    edges, weights = edges[weights > 0], weights[weights > 0]
    neighbors: dict[int, list[tuple[float, int, int]]] = {image_id: [] for image_id in range(num_images)}
    for index in maximum_spanning_forest(num_images, edges, weights):
        (first, second), weight = edges[index].tolist(), float(weights[index])
        neighbors[first].append((-weight, first, second))
        neighbors[second].append((-weight, second, first))
    root = int(np.bincount(edges.ravel(), np.repeat(weights, 2), num_images).argmax())
    known, order = {root}, []
    queue = neighbors[root]
    heapify(queue)
    while queue:
        _, source, target = heappop(queue)
        if target not in known:
            known.add(target)
            order.append((source, target))
            for edge in neighbors[target]:
                heappush(queue, edge)
    return order
