"""Depth map of a single image, with possibly unknown scale and shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nope_splat.utils.typing import Array

DepthValues = NDArray[np.float32]
"""Type of the values of a depth map, and of their confidences. (H, W)."""

DepthKind = Literal["metric", "affine", "disparity"]
"""Relation between the values v of a depth map and depth; scale s and shift t are unknown constants of the
map. "metric": depth = s v (not necessarily in meters). "affine": depth = s v + t. "disparity":
1 / depth = s v + t."""


@dataclass(frozen=True)
class DepthMap:
    """Depth map of one image: depth along the optical axis (z), or inverse depth, as given by `kind`."""

    values: DepthValues
    """Values of the quantity given by `kind`; NaN for unknown values. (H, W)."""
    kind: DepthKind
    """Relation between `values` (v) and depth; scale s and shift t are unknown constants of the map.
    "metric": depth = s v (not necessarily in meters). "affine": depth = s v + t. "disparity":
    1 / depth = s v + t."""
    pixel_size: tuple[float, float]
    """Width and height of one pixel of the map, in full-resolution pixels of the image."""
    corner: tuple[float, float] = (0.0, 0.0)
    """Position (x, y) of the map's upper left corner, in full-resolution pixels of the image."""
    confidence: DepthValues | None = None
    """Confidence of each value, on any scale, larger for more reliable values; None if unknown. (H, W)."""

    @classmethod
    def of_whole_image(
        cls,
        values: DepthValues,
        kind: DepthKind,
        image_size: tuple[int, int],
        confidence: DepthValues | None = None,
    ) -> DepthMap:
        """Create a depth map that covers a whole image, at any resolution.

        Args:
            values: Values of the map; NaN for unknown values. (H, W).
            kind: Quantity in `values`.
            image_size: Width and height of the full-resolution image in pixels.
            confidence: Confidence of each value, on any scale, larger for more reliable values; None if
                unknown. (H, W).
        """
        height, width = values.shape
        return cls(values, kind, (image_size[0] / width, image_size[1] / height), confidence=confidence)

    def pixel_centers(self) -> Array:
        """Compute the centers of the map's pixels.

        Returns:
            Positions in full-resolution pixels of the image, x then y. (H, W, 2).
        """
        height, width = self.values.shape
        centers = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        return centers * self.pixel_size + self.corner

    def sample(self, xy: Array) -> Array:
        """Sample the map at image positions by bilinear interpolation.

        Args:
            xy: Positions in full-resolution pixels of the image, x then y. (..., 2).

        Returns:
            Values of the map; NaN outside the map and next to unknown values. (...).
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
    """Find the pixels next to a depth discontinuity. The depth of such a pixel may mix two surfaces.

    Args:
        depth: Depth or distance; NaN for unknown values, which cause no discontinuities. (H, W).
        max_relative_step: Largest depth difference between neighboring pixels of one surface, as a fraction
            of the smaller of the two depths. Larger differences are discontinuities.

    Returns:
        True for the pixels on both sides of a discontinuity. (H, W).
    """
    edge = np.zeros(depth.shape, bool)
    for values, pixels in ((depth, edge), (depth.T, edge.T)):
        step = np.abs(np.diff(values, axis=0)) > max_relative_step * np.minimum(values[1:], values[:-1])
        pixels[1:] |= step
        pixels[:-1] |= step
    return edge
