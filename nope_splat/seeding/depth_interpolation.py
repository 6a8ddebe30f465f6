"""Interpolation of inverse depth between the track points of an image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay, KDTree

from nope_splat.seeding.settings import InterpolationConfig


def interpolate_inverse_depth(
    xy: NDArray[np.floating],
    inverse_depth: NDArray[np.floating],
    shape: tuple[int, int],
    config: InterpolationConfig | None = None,
) -> NDArray[np.float32]:
    """Interpolate inverse depth linearly on a Delaunay triangulation of the track points.

    The interpolation is exact on planar surfaces, because their inverse depth is linear in pixel coordinates.
    Track points whose inverse depth differs too much from the median of their neighbors are removed as
    outliers. Additional points on the image border, with the median inverse depth of the nearest track
    points, extend the triangulation to the whole image.

    Args:
        xy: Pixel coordinates (x, y) of the K track points. K has to be larger than `num_neighbors` of
            `config`. (K, 2).
        inverse_depth: Inverse depths of the track points, in inverse world units. (K,).
        shape: Height and width of the result in pixels.
        config: Outlier thresholds, border points and evaluation grid; default options if None.

    Returns:
        Inverse depth at every pixel center, in inverse world units. (H, W).
    """
    config = config or InterpolationConfig()
    height, width = shape
    near = np.asarray(KDTree(xy).query(xy, k=config.num_neighbors + 1)[1])
    neighbors = inverse_depth[near[:, 1:]]
    median = np.median(neighbors, axis=1)
    spread = np.median(np.abs(neighbors - median[:, None]), axis=1)
    inlier = (
        np.abs(inverse_depth - median)
        < config.max_deviation_mads * spread + config.max_relative_deviation * median
    )
    xy, inverse_depth = xy[inlier], inverse_depth[inlier]

    border = _border_points(height, width, config)
    near = np.asarray(KDTree(xy).query(border, k=config.num_border_neighbors)[1])
    border_values = np.median(inverse_depth[near], axis=1)
    mesh = LinearNDInterpolator(Delaunay(np.concatenate([xy, border])), np.r_[inverse_depth, border_values])

    spacing = config.grid_spacing
    columns = np.arange(0, width + spacing, spacing, dtype=np.float64)
    rows = np.arange(0, height + spacing, spacing, dtype=np.float64)
    coarse = mesh(*np.meshgrid(columns.clip(0, width), rows.clip(0, height)))
    coarse = np.where(np.isfinite(coarse), coarse, np.median(inverse_depth)).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    fine = cv2.remap(coarse, (x + 0.5) / spacing, (y + 0.5) / spacing, cv2.INTER_LINEAR)
    return np.asarray(fine, np.float32)


def _border_points(height: int, width: int, config: InterpolationConfig) -> NDArray[np.floating]:
    """Return pixel coordinates (x, y) of evenly spaced points along the image border. (B, 2)."""
    across = np.linspace(0, width, config.num_border_columns)
    down = np.linspace(0, height, config.num_border_rows)[1:-1]
    horizontal = [(x, y) for x in across for y in (0, height)]
    vertical = [(x, y) for y in down for x in (0, width)]
    return np.array(horizontal + vertical, dtype=np.float64)
