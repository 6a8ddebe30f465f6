"""Stationary pixels: their content moves with the camera, such as a logo, a dashboard or dirt on the lens.

Such content stays at the same pixels in all images, while the scene moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERTICAL, HORIZONTAL = ("upper", "", "lower"), ("left", "", "right")
"""Names of the thirds of an image, from top to bottom and from left to right; the middle third has no
name."""


@dataclass(frozen=True)
class StationaryPixels:
    """Grid cells whose content stays at the same pixels in all images of one size, such as a logo."""

    size: tuple[int, int]
    """Width and height of the images at full resolution, in pixels."""
    cells: NDArray[np.bool_]
    """Which cells of a regular grid over the image are stationary. (rows, columns)."""
    num_matches: int
    """Number of matches in images of this size that were discarded, because their keypoints are at the same
    pixel in both images while the scene moves."""

    @property
    def fraction(self) -> float:
        """Fraction of the image area that the stationary cells cover."""
        return float(self.cells.mean())

    @property
    def region(self) -> str:
        """Description of where the stationary cells lie, such as "the lower right part" or "many places"."""
        rows, columns = np.nonzero(self.cells)
        thirds = [
            np.unique(3 * index // count)
            for index, count in zip((rows, columns), self.cells.shape, strict=True)
        ]
        if any(len(third) > 1 for third in thirds) and self._spread() > 0.5:
            return "many places"
        vertical, horizontal = (
            names[int(np.median(3 * index // count))]
            for names, index, count in zip(
                (VERTICAL, HORIZONTAL), (rows, columns), self.cells.shape, strict=True
            )
        )
        return f"the {' '.join(filter(None, (vertical, horizontal))) or 'middle'} part"

    def _spread(self) -> float:
        """Spread of the stationary cells: 1 if they fill the image, 0 if they lie in one row or column.

        The spread along an axis is the standard deviation of the cells' positions along this axis, divided by
        that of a uniform distribution over the image. The smaller spread of the two axes is returned.
        """
        rows, columns = np.nonzero(self.cells)
        deviations = [
            index.std() / count * np.sqrt(12)
            for index, count in zip((rows, columns), self.cells.shape, strict=True)
        ]
        return float(min(deviations))

    def contains(self, xy: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Check which pixels lie in a stationary cell.

        Args:
            xy: Full-resolution pixel coordinates, x then y. (n, 2).

        Returns:
            True for pixels in a stationary cell. (n,).
        """
        row, column = cell_of(xy, self.size, self.cells.shape)
        return self.cells[row, column]


def cell_of(
    xy: NDArray[np.floating], size: tuple[int, int], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the cell of a regular grid over the image that contains each pixel.

    Args:
        xy: Full-resolution pixel coordinates, x then y. (n, 2).
        size: Width and height of the image in pixels.
        shape: Number of rows and columns of the grid.

    Returns:
        Row and column of the cell of each pixel. (n,) each.
    """
    column, row = ((xy / size) * shape[::-1]).astype(np.int64).T
    return row.clip(0, shape[0] - 1), column.clip(0, shape[1] - 1)


def stationary_to_arrays(stationary: Sequence[StationaryPixels]) -> dict[str, NDArray[Any]]:
    """Convert stationary pixels to arrays by name, which `numpy.savez` can store without pickle.

    Args:
        stationary: Stationary cells of each image size.
    """
    return {
        "stationary_sizes": np.array([pixels.size for pixels in stationary], np.int64).reshape(-1, 2),
        "stationary_shapes": np.array([pixels.cells.shape for pixels in stationary], np.int64).reshape(-1, 2),
        "stationary_counts": np.array([pixels.num_matches for pixels in stationary], np.int64),
        "stationary_cells": np.concatenate(
            [np.zeros(0, bool), *(pixels.cells.ravel() for pixels in stationary)]
        ),
    }


def stationary_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[StationaryPixels, ...]:
    """Create stationary pixels from the arrays that `stationary_to_arrays` returned.

    Args:
        arrays: Arrays by name.
    """
    stationary, start = [], 0
    for (width, height), shape, count in zip(
        arrays["stationary_sizes"].tolist(),
        arrays["stationary_shapes"].tolist(),
        arrays["stationary_counts"].tolist(),
        strict=True,
    ):
        end = start + shape[0] * shape[1]
        cells = arrays["stationary_cells"][start:end].reshape(shape)
        stationary.append(StationaryPixels((width, height), cells, count))
        start = end
    return tuple(stationary)
