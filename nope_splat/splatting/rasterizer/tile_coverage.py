"""Blocks of pixels in a tile that a splat covers.

A splat is drawn in an ellipse around its center. With the quadratic form A, B, C of the splat's record (see
`binning`) and the splat's opacity o, the ellipse is

    A e^2 + B e f + C f^2 <= tau = log2(255 o)

where e is the offset to the right of the center, and f the offset below the center, in pixels. At a given f,
the ellipse reaches from e = (-B f - r) / 2A to e = (-B f + r) / 2A, where r^2 = 4 A tau - (4 A C - B^2) f^2.
The rightmost point has the offset f = -B / 2C sqrt(4 C tau / (4 A C - B^2)), which the record contains as
*tilt*; the leftmost point has f = -tilt. A row of blocks covers a range of f. In this row, the ellipse
reaches farthest right at the f nearest to tilt, and farthest left at the f nearest to -tilt. One SIMD lane
computes one row of blocks, so that many rows are computed at once.
"""

from __future__ import annotations

import numpy as np

from nope_splat.splatting.rasterizer.binning import BOUNDS, LOG_OPACITY, MEAN, MIN_LOG_ALPHA, QUADRATIC, TILT
from nope_splat.splatting.rasterizer.kernels import inlined
from nope_splat.splatting.rasterizer.simd import maximum, minimum, square_root, truncated
from nope_splat.splatting.rasterizer.simd_memory import (
    block_height,
    block_width,
    lane_count,
    lane_numbers,
    store,
)

_MIN_LOG_ALPHA = np.float32(MIN_LOG_ALPHA)
_ZERO, _TWO, _FOUR = np.float32(0.0), np.float32(2.0), np.float32(4.0)
_HALF, _ALMOST_HALF = np.float32(0.5), np.float32(0.49)


@inlined
def covered_blocks(lanes, records, bounds, splat, tile_x, tile_y, tile_size, first_blocks, last_blocks):
    """Find the blocks of a tile that a splat covers.

    A block is a rectangle of `block_width(lanes)` x `block_height(lanes)` pixels, which are composited in one
    SIMD register of `lanes` numbers. (`tile_x`, `tile_y`) is the first pixel of the tile. `splat` is the
    index at which the splat's record starts in the flat array `records` (float32); `bounds` is the same
    memory as int32 and contains the pixels that the splat may cover. Writes the first and the last covered
    block of each row of blocks to `first_blocks` and `last_blocks`, and returns the first and the last row.
    """
    width, height = block_width(lanes), block_height(lanes)
    first_row = max(0, bounds[splat + BOUNDS + 2] - tile_y) // height
    last_row = min(tile_size - 1, bounds[splat + BOUNDS + 3] - tile_y) // height
    leftmost = np.float32(max(0, bounds[splat + BOUNDS] - tile_x))
    rightmost = np.float32(min(tile_size - 1, bounds[splat + BOUNDS + 1] - tile_x))
    a, b, c = records[splat + QUADRATIC], records[splat + QUADRATIC + 1], records[splat + QUADRATIC + 2]
    det = _FOUR * a * c - b * b
    limit = _FOUR * a * (records[splat + LOG_OPACITY] - _MIN_LOG_ALPHA)
    per_width = np.float32(1.0) / (_TWO * a)
    x = records[splat + MEAN] - np.float32(tile_x)
    tilt = records[splat + TILT]
    for row in range(first_row, last_row + 1, lane_count(lanes)):
        top = np.float32(tile_y + row * height) + _HALF - records[splat + MEAN + 1]
        low = lane_numbers(lanes) * np.float32(height) + top
        high = low + np.float32(height - 1)
        f = maximum(low, minimum(high, -tilt))
        reach = square_root(maximum(limit - det * f * f, _ZERO))
        first = x - (b * f + reach) * per_width + _ALMOST_HALF
        f = maximum(low, minimum(high, tilt))
        reach = square_root(maximum(limit - det * f * f, _ZERO))
        last = x - (b * f - reach) * per_width - _ALMOST_HALF
        store(first_blocks, row, truncated(maximum(first, leftmost) / np.float32(width)))
        store(last_blocks, row, truncated(minimum(last, rightmost) / np.float32(width)))
    return first_row, last_row
