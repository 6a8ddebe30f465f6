"""Depth of one image as somebody who has seen only this image tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nope_splat.utils.typing import Array

Map = NDArray[np.float32]

DepthKind = Literal["metric", "affine", "disparity"]
"""What the values of a depth map are: depth up to a scale, depth up to scale and shift, or inverse depth up
to scale and shift."""


MAX_STEP = 0.1
"""Largest difference of depth between neighboring pixels of one surface, as a share of the depth."""


@dataclass(frozen=True)
class DepthMap:
    """Depth along the optical axis (z, not distance) of the pixels of one image, of some kind."""

    values: Map
    """What `kind` says, NaN where unknown. (H, W)."""
    kind: DepthKind
    """How the values relate to depth."""
    pixel_size: tuple[float, float]
    """Width and height of a pixel of the map, in pixels of the full-resolution image."""
    corner: tuple[float, float] = (0.0, 0.0)
    """Where the upper left corner of the map lies, in pixels of the full-resolution image."""
    confidence: Map | None = None
    """How far each value is to be trusted, in units of its source; None where that says nothing. (H, W)."""

    @classmethod
    def covering(
        cls, values: Map, kind: DepthKind, image_size: tuple[int, int], confidence: Map | None = None
    ) -> DepthMap:
        """A map, of any size, of a whole image.

        Args:
            values: As in the class.
            kind: As in the class.
            image_size: Width and height of the full-resolution image.
            confidence: As in the class.
        """
        height, width = values.shape
        return cls(values, kind, (image_size[0] / width, image_size[1] / height), confidence=confidence)

    def positions(self) -> Array:
        """Where the centers of the map's pixels lie in the image, full-resolution pixels. (H, W, 2)."""
        height, width = self.values.shape
        centers = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        return centers * self.pixel_size + self.corner

    def sample(self, xy: Array) -> Array:
        """Values at positions in the image, bilinear between the centers of the map's pixels.

        Args:
            xy: Full-resolution pixels. (..., 2).

        Returns:
            Values; NaN outside the map, and where a value in the neighborhood is unknown. (...).
        """
        height, width = self.values.shape
        place = (xy - np.array(self.corner)) / self.pixel_size
        inside = ((place >= 0) & (place <= (width, height))).all(-1)  # False for NaN
        place = np.where(inside[..., None], place - 0.5, 0.0).clip(0, (width - 1, height - 1))
        low = np.minimum(np.floor(place).astype(np.int64), np.maximum((width - 2, height - 2), 0))
        (x, y), (column, row) = np.moveaxis(place - low, -1, 0), np.moveaxis(low, -1, 0)
        next_column, next_row = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
        values = self.values.astype(np.float64)
        above = (1 - x) * values[row, column] + x * values[row, next_column]
        below = (1 - x) * values[next_row, column] + x * values[next_row, next_column]
        return np.where(inside, (1 - y) * above + y * below, np.nan)


def on_depth_edge(depth: NDArray[np.floating], max_step: float = MAX_STEP) -> NDArray[np.bool_]:
    """Pixels of a depth map beside which the depth jumps: they may belong to either surface, or to none.

    Args:
        depth: Depth or distance; where it is NaN there is no edge. (H, W).
        max_step: Largest difference between neighbors of one surface, as a share of the nearer one.

    Returns:
        (H, W).
    """
    edge = np.zeros(depth.shape, bool)
    for values, pixels in ((depth, edge), (depth.T, edge.T)):
        jump = np.abs(np.diff(values, axis=0)) > max_step * np.minimum(values[1:], values[:-1])
        pixels[1:] |= jump
        pixels[:-1] |= jump
    return edge
