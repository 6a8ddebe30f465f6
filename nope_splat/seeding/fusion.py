"""From one dense depth map per image to one point cloud without repetitions."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.seeding.view import View

_SAME_SURFACE = 0.04
"""Relative inverse depth within which a cell counts as covered by an earlier point."""
_IN_FRONT = 1.05
"""A point whose inverse depth exceeds a confirmed one by this factor floats in front of the surface."""

DepthMap = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Inverse depth (H, W) and the number of partners that confirm it (H, W)."""


class Fused(NamedTuple):
    """A point cloud, and which pixels its points come from."""

    points: NDArray[np.float64]
    """World coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """RGB. (P, 3)."""
    sources: NDArray[np.int64]
    """View, row and column. (P, 3)."""


def fuse(views: list[View], depth_maps: list[DepthMap], cell: int) -> Fused:
    """One point for each image cell whose surface no earlier image has given yet.

    Args:
        views: The images.
        depth_maps: Their depth maps.
        cell: Width of a cell in pixels.

    Returns:
        The points.
    """
    points, colors, sources = np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.int64)
    for index in np.argsort([-int((count > 0).sum()) for _, count in depth_maps], kind="stable"):
        view, (inverse_depth, count) = views[index], depth_maps[index]
        row, column = _best_pixels(count, cell)
        candidates = inverse_depth[row, column]
        hit, cells = view.cells(points, cell)
        nearest = np.zeros((view.shape[0] // cell, view.shape[1] // cell))
        np.maximum.at(nearest, (cells[:, 0], cells[:, 1]), 1 / view.project(points[hit])[1])
        covered = np.abs(nearest[row // cell, column // cell] - candidates) < _SAME_SURFACE * candidates
        row, column, candidates = row[~covered], column[~covered], candidates[~covered]
        added = view.unproject(np.stack([column, row], 1).astype(np.float32) + 0.5, candidates)
        points = np.concatenate([points, added])
        colors = np.concatenate([colors, cv2.blur(view.image, (3, 3))[row, column]])
        sources = np.concatenate([sources, np.stack([np.full_like(row, index), row, column], axis=1)])
    return Fused(points, colors, sources)


def _best_pixels(count: NDArray[np.int64], cell: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the most confirmed, then most central pixel of every cell that has one."""
    rows, columns = count.shape[0] // cell, count.shape[1] // cell
    blocks = count[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(rows, columns, cell * cell)
    off_center = np.abs(np.arange(cell) - (cell - 1) / 2)
    centrality = 0.9 - 0.9 * (off_center[:, None] + off_center) / cell
    best = (blocks + centrality.ravel()).argmax(-1)
    row, column = np.nonzero(np.take_along_axis(blocks, best[..., None], -1)[..., 0] > 0)
    inside = best[row, column]
    return row * cell + inside // cell, column * cell + inside % cell


def in_free_space(
    views: list[View], depth_maps: list[DepthMap], points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Points that at least two images see through: they lie well in front of a confirmed surface.

    Args:
        views: The images.
        depth_maps: Their depth maps; two partners make a surface confirmed.
        points: World coordinates. (P, 3).

    Returns:
        (P,).
    """
    violations = np.zeros(len(points), np.int64)
    for view, (inverse_depth, count) in zip(views, depth_maps, strict=True):
        hit, cells = view.cells(points, 1)
        row, column = cells.T
        _, depth = view.project(points[hit])
        seen_through = 1 / depth > _IN_FRONT * inverse_depth[row, column]
        violations[hit] += seen_through & (count[row, column] >= 2)
    return violations >= 2
