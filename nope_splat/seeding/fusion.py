"""Fusion of one depth map per image to a point cloud without duplicates."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.seeding.settings import FusionConfig
from nope_splat.seeding.view import Float32Array, SeedingView


class InverseDepthMap(NamedTuple):
    """Inverse depth of an image, and its support."""

    values: Float32Array
    """Inverse depth. (H, W)."""
    num_consistent: NDArray[np.int64]
    """Number of consistent source views, zero for pixels without inverse depth. (H, W)."""


class FusedPoints(NamedTuple):
    """A point cloud with the pixel of origin of every point."""

    points: NDArray[np.floating]
    """World coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """RGB. (P, 3)."""
    origins: NDArray[np.int64]
    """Index of the view, row and column. (P, 3)."""


def fuse_depth_maps(
    views: list[SeedingView], depth_maps: list[InverseDepthMap], cell_size: int, config: FusionConfig
) -> FusedPoints:
    """Add one point per image cell, unless a point of an earlier view covers the surface there.

    Args:
        views: The views. Those with the most pixels of known depth are processed first.
        depth_maps: One depth map per view.
        cell_size: Width of a cell in pixels.
        config: Largest depth difference on the same surface.
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
    """Find the pixel of each cell with the most consistent views, the most central one among equals.

    Returns:
        Rows and columns, of the cells that have a pixel of known depth.
    """
    rows, columns = num_consistent.shape[0] // cell_size, num_consistent.shape[1] // cell_size
    blocks = num_consistent[: rows * cell_size, : columns * cell_size]
    blocks = blocks.reshape(rows, cell_size, columns, cell_size)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(rows, columns, cell_size * cell_size)
    off_center = np.abs(np.arange(cell_size) - (cell_size - 1) / 2)
    # Below one, so that centrality decides between equal counts only.
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

    Args:
        views: The views.
        depth_maps: One depth map per view.
        points: World coordinates. (P, 3).
        config: Conditions for a confirmed surface and for a violation.

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
