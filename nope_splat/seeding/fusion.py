"""Fusion of the depth maps of all images into one point cloud without duplicate points."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.seeding.settings import FusionConfig
from nope_splat.seeding.view import Float32Array, SeedingView


class InverseDepthMap(NamedTuple):
    """Inverse depth of each pixel of an image, and the number of source views that agree on it."""

    values: Float32Array
    """Inverse depth of each pixel, in inverse world units; undefined where `num_consistent` is zero.
    (H, W)."""
    num_consistent: NDArray[np.int64]
    """Number of source views that agree on the inverse depth of each pixel; zero where depth is unknown.
    (H, W)."""


class FusedPoints(NamedTuple):
    """Point cloud with the pixel from which each point was created."""

    points: NDArray[np.floating]
    """World coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """RGB colors. (P, 3)."""
    origins: NDArray[np.int64]
    """View index, row and column of the pixel from which each point was created. (P, 3)."""


def fuse_depth_maps(
    views: list[SeedingView], depth_maps: list[InverseDepthMap], cell_size: int, config: FusionConfig
) -> FusedPoints:
    """Fuse the depth maps of all views into one point cloud, with at most one point per cell of each view.

    Each view is divided into square cells. Views are processed one after the other, starting with the view
    that has the most pixels with known depth. A cell gets no point if the surface that it shows already has a
    point from an earlier view.

    Args:
        views: The views.
        depth_maps: Depth map of each view.
        cell_size: Width and height of a cell in pixels.
        config: Maximum relative difference in inverse depth between points on the same surface.

    Returns:
        The points that were created from all views.
    """
    points, colors, origins = np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.int64)
    coverage = [-int((depth_map.num_consistent > 0).sum()) for depth_map in depth_maps]
    for index in np.argsort(coverage, kind="stable"):
        view, (inverse_depth, num_consistent) = views[index], depth_maps[index]
        row, column = _best_pixels(num_consistent, cell_size)
        candidates = inverse_depth[row, column]
        visible, cells = view.grid_cells(points, cell_size)
        nearest = np.zeros((view.shape[0] // cell_size, view.shape[1] // cell_size))
        np.maximum.at(nearest, (cells[:, 0], cells[:, 1]), 1 / view.project(points[visible])[1])
        difference = np.abs(nearest[row // cell_size, column // cell_size] - candidates)
        covered = difference < config.max_depth_error * candidates
        row, column, candidates = row[~covered], column[~covered], candidates[~covered]
        added = view.unproject(np.stack([column, row], 1).astype(np.float32) + 0.5, candidates)
        points = np.concatenate([points, added])
        colors = np.concatenate([colors, cv2.blur(view.image, (3, 3))[row, column]])
        origins = np.concatenate([origins, np.stack([np.full_like(row, index), row, column], axis=1)])
    return FusedPoints(points, colors, origins)


def _best_pixels(
    num_consistent: NDArray[np.int64], cell_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Select the pixel of each cell on whose depth the most source views agree.

    Among pixels with equally many such views, the pixel nearest to the center of the cell is selected.

    Args:
        num_consistent: Number of source views that agree on the depth of each pixel; zero if the depth is
            unknown. (H, W).
        cell_size: Width and height of a cell in pixels.

    Returns:
        Rows (C,) and columns (C,) of the selected pixels of C cells. Cells without a pixel of known depth are
        omitted.
    """
    rows, columns = num_consistent.shape[0] // cell_size, num_consistent.shape[1] // cell_size
    blocks = num_consistent[: rows * cell_size, : columns * cell_size]
    blocks = blocks.reshape(rows, cell_size, columns, cell_size)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(rows, columns, cell_size * cell_size)
    off_center = np.abs(np.arange(cell_size) - (cell_size - 1) / 2)
    # At most 0.9, so that the distance from the center decides only between pixels with equal counts.
    centrality = 0.9 - 0.9 * (off_center[:, None] + off_center) / cell_size
    best = (blocks + centrality.ravel()).argmax(-1)
    row, column = np.nonzero(np.take_along_axis(blocks, best[..., None], -1)[..., 0] > 0)
    pixel = best[row, column]
    return row * cell_size + pixel // cell_size, column * cell_size + pixel % cell_size


def violates_free_space(
    views: list[SeedingView],
    depth_maps: list[InverseDepthMap],
    points: NDArray[np.floating],
    config: FusionConfig,
) -> NDArray[np.bool_]:
    """Find points that lie in front of confirmed surfaces in several views.

    In each view, a point is compared with the surface at the pixel that the point projects to. This surface
    is confirmed if enough source views agree on the depth of the pixel.

    Args:
        views: The views.
        depth_maps: Depth map of each view.
        points: World coordinates. (P, 3).
        config: Thresholds for confirmed surfaces and for violations.

    Returns:
        True for points that violate free space. (P,).
    """
    violations = np.zeros(len(points), np.int64)
    for view, (inverse_depth, num_consistent) in zip(views, depth_maps, strict=True):
        visible, cells = view.grid_cells(points, 1)
        row, column = cells.T
        _, depth = view.project(points[visible])
        in_front = 1 / depth > config.free_space_factor * inverse_depth[row, column]
        violations[visible] += in_front & (num_consistent[row, column] >= config.min_num_consistent)
    return violations >= config.min_num_violations
