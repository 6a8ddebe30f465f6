"""Depth map of a single image, up to the ambiguity of its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nope_splat.utils.typing import Array

DepthValues = NDArray[np.float32]

DepthKind = Literal["metric", "affine", "disparity"]
"""Quantity in a depth map: depth up to a scale, depth up to scale and shift, or inverse depth up to scale and
shift."""


@dataclass(frozen=True)
class DepthMap:
    """Depth (z, not distance) of the pixels of one image, up to scale and perhaps shift."""

    values: DepthValues
    """Values of the quantity given by `kind`, NaN if unknown. (H, W)."""
    kind: DepthKind
    """Quantity that the values represent."""
    pixel_size: tuple[float, float]
    """Width and height of a pixel of the map, in full-resolution pixels of the image."""
    corner: tuple[float, float] = (0.0, 0.0)
    """Upper left corner of the map, in full-resolution pixels of the image."""
    confidence: DepthValues | None = None
    """Confidence of each value, on the scale of its source; None if the source gives none. (H, W)."""

    @classmethod
    def of_whole_image(
        cls,
        values: DepthValues,
        kind: DepthKind,
        image_size: tuple[int, int],
        confidence: DepthValues | None = None,
    ) -> DepthMap:
        """Create a map, at any resolution, that covers a whole image.

        Args:
            values: Values of the map. (H, W).
            kind: Quantity that the values represent.
            image_size: Width and height of the full-resolution image.
            confidence: Confidence of each value. (H, W).
        """
        height, width = values.shape
        return cls(values, kind, (image_size[0] / width, image_size[1] / height), confidence=confidence)

    def pixel_centers(self) -> Array:
        """Compute the centers of the map's pixels, in full-resolution pixels of the image. (H, W, 2)."""
        height, width = self.values.shape
        centers = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        return centers * self.pixel_size + self.corner

    def sample(self, xy: Array) -> Array:
        """Sample the map at image positions, by bilinear interpolation between its pixel centers.

        Args:
            xy: Positions in full-resolution pixels of the image. (..., 2).

        Returns:
            Values; NaN outside the map, and next to unknown values. (...).
        """
        height, width = self.values.shape
        position = (xy - np.array(self.corner)) / self.pixel_size
        inside = np.all((position >= 0) & (position <= (width, height)), axis=-1)  # False for NaN
        position = np.where(inside[..., None], position - 0.5, 0.0).clip(0, (width - 1, height - 1))
        low = np.minimum(np.floor(position).astype(np.int64), np.maximum((width - 2, height - 2), 0))
        (x, y), (column, row) = np.moveaxis(position - low, -1, 0), np.moveaxis(low, -1, 0)
        next_column, next_row = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
        values = self.values.astype(np.float64)
        above = (1 - x) * values[row, column] + x * values[row, next_column]
        below = (1 - x) * values[next_row, column] + x * values[next_row, next_column]
        return np.where(inside, (1 - y) * above + y * below, np.nan)


def depth_edges(depth: NDArray[np.floating], max_relative_step: float = 0.1) -> NDArray[np.bool_]:
    """Find the pixels next to a depth discontinuity: they may belong to either surface, or to none.

    Args:
        depth: Depth or distance; NaN makes no edge. (H, W).
        max_relative_step: Largest difference between neighboring pixels of one surface, relative to the
            smaller depth.

    Returns:
        True next to a discontinuity. (H, W).
    """
    edge = np.zeros(depth.shape, bool)
    for values, pixels in ((depth, edge), (depth.T, edge.T)):
        step = np.abs(np.diff(values, axis=0)) > max_relative_step * np.minimum(values[1:], values[:-1])
        pixels[1:] |= step
        pixels[:-1] |= step
    return edge
