"""A dense guess of an image's inverse depth from the few tracks it sees."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay, KDTree

_NEIGHBORS = 8
_GRID = 4
_BORDER_SAMPLES = (13, 9)


def interpolate_inverse_depth(
    xy: NDArray[np.float64], inverse_depth: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Interpolate inverse depth, which is linear over a plane's image, between track points.

    Points far from the median of their neighbors are dropped; the border takes the median of the
    nearest points, so that the triangulation covers the whole image.

    Args:
        xy: Where the track points are seen, at least nine. (K, 2).
        inverse_depth: Their inverse depths. (K,).
        shape: Height and width of the result.

    Returns:
        Inverse depth at every pixel's center. (H, W).
    """
    height, width = shape
    near = np.asarray(KDTree(xy).query(xy, k=_NEIGHBORS + 1)[1])
    around = inverse_depth[near[:, 1:]]
    median = np.median(around, axis=1)
    spread = np.median(np.abs(around - median[:, None]), axis=1)
    kept = np.abs(inverse_depth - median) < 5 * spread + 0.05 * median
    xy, inverse_depth = xy[kept], inverse_depth[kept]

    border = _border_points(height, width)
    near = np.asarray(KDTree(xy).query(border, k=5)[1])
    border_values = np.median(inverse_depth[near], axis=1)
    mesh = LinearNDInterpolator(Delaunay(np.concatenate([xy, border])), np.r_[inverse_depth, border_values])

    columns = np.arange(0, width + _GRID, _GRID, dtype=np.float64)
    rows = np.arange(0, height + _GRID, _GRID, dtype=np.float64)
    coarse = mesh(*np.meshgrid(columns.clip(0, width), rows.clip(0, height)))
    coarse = np.where(np.isfinite(coarse), coarse, np.median(inverse_depth)).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    fine = cv2.remap(coarse, (x + 0.5) / _GRID, (y + 0.5) / _GRID, cv2.INTER_LINEAR)
    return np.asarray(fine, np.float32)


def _border_points(height: int, width: int) -> NDArray[np.float64]:
    across = np.linspace(0, width, _BORDER_SAMPLES[0])
    down = np.linspace(0, height, _BORDER_SAMPLES[1])[1:-1]
    horizontal = [(x, y) for x in across for y in (0, height)]
    vertical = [(x, y) for y in down for x in (0, width)]
    return np.array(horizontal + vertical, dtype=np.float64)
