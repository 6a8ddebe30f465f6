"""Sorting of splats into lists per image tile, front to back.

At the offset (dx, dy) from its center, a splat of opacity o and conic (a, b, c) has alpha = o exp(-sigma),
with sigma = (a dx^2 + 2 b dx dy + c dy^2) / 2. A splat is drawn where its alpha is at least 1/255: inside the
ellipse sigma <= ln(255 o). Splats are sorted once by depth. Then a counting sort, which is stable, appends
each splat to the lists of all tiles that its ellipse intersects.

Compositing reads one *record* of float32 per splat, `record_length(channels)` long:

    0  1    mean2d
    2  3  4 a/2, b, c/2 times log2(e), so that alpha = 2^(log2(o) - quadratic form of dx and dy)
    5       log2(o)
    6 .. 9  first and last column, first and last row of the ellipse's bounding box, as int32
    10      y offset (down) from the center of the ellipse to its rightmost point, see `tile_coverage`
    11 ..   channels
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.simd_memory import prefetch
from nope_splat.splatting.rasterizer.threads import (
    CHUNK,
    claim,
    finish_item,
    get_num_threads,
    run_on_all_threads,
    wait_for_items,
)

MEAN, QUADRATIC, LOG_OPACITY, BOUNDS, TILT, CHANNELS = 0, 2, 5, 6, 10, 11
"""Indices at which the parts of a record start (see the module docstring)."""
MIN_LOG_ALPHA = -7.994353436858858
"""log2(1/255): the base-2 logarithm of the smallest alpha that is drawn."""

LOG2E = 1.4426950408889634

AHEAD = 8
"""Number of splats by which loops over depth-sorted splats prefetch records in advance, because the records
are scattered in memory."""

_RADIX_BITS = 13
_PARTS_PER_THREAD = 4
"""Number of runs of consecutive depth-sorted splats per thread. Several runs per thread balance the load,
because near splats intersect more tiles than far splats."""


def record_length(channels: int) -> int:
    """Compute the length of a splat's record in float32 values, rounded up to cache lines of 16 values."""
    return -(-(CHANNELS + channels) // 16) * 16


class ProjectedSplats(NamedTuple):
    """Gaussians projected into one camera.

    Attributes:
        radii: Radii in pixels; zero for culled splats. (N,), int32.
        means2d: Centers in pixels, x then y. (N, 2).
        conics: Inverse covariances (a, b, c), the entries of [[a, b], [b, c]]. (N, 3).
        opacities: Opacities in [0, 1]. (N,).
        depths: Depths in world units. (N,).
        colors: Color channels. (N, channels).
    """

    radii: NDArray[np.int32]
    means2d: NDArray[np.float32]
    conics: NDArray[np.float32]
    opacities: NDArray[np.float32]
    depths: NDArray[np.float32]
    colors: NDArray[np.float32]


class TileLists(NamedTuple):
    """Records of the splats, and for each tile the list of splats that intersect the tile, front to back.

    An *intersection* is a splat in the list of a tile. The backward pass writes the gradient of each
    intersection to a *slot*. The lists need 8 bytes of memory per intersection (`splats` and `slots`), and
    the backward pass another `4 * slot_length` bytes per intersection: at most 64 bytes for up to 8
    channels.

    Attributes:
        records: One record per Gaussian; undefined for culled Gaussians. (N, record length), float32.
        order: Indices of the visible (not culled) Gaussians, front to back. (visible,), int32.
        part_offsets: For each run of consecutive Gaussians in `order` and each tile, the position in `splats`
            and `slots` at which the run's next intersection is written. `fill_tiles` advances these
            positions. (runs, tiles + padding), int64.
        tile_offsets: Start of each tile's list in `splats` and `slots`. The last entry is the number of
            intersections. (tiles + 1,), int64.
        splats: Index of the Gaussian of every intersection, tile by tile. (intersections,), int32.
        slots: Index of the gradient slot of every intersection. The slots of a Gaussian are consecutive.
            (intersections,), int32.
        slot_offsets: First slot of each Gaussian. Culled Gaussians have no slots. (N + 1,), int64.
        tile_order: Tile indices; the tile with the longest list comes first. (tiles,), int64.
        tiles_wide: Number of tiles per image row.
    """

    records: NDArray[np.float32]
    order: NDArray[np.int32]
    part_offsets: NDArray[np.int64]
    tile_offsets: NDArray[np.int64]
    splats: NDArray[np.int32]
    slots: NDArray[np.int32]
    slot_offsets: NDArray[np.int64]
    tile_order: NDArray[np.int64]
    tiles_wide: int


@inlined
def write_records(start, stop, width, height, radii, means2d, conics, opacities, colors,
                  records, bounds, slot_counts):  # fmt: skip
    """Write the records of the Gaussians from index `start` to `stop` (exclusive).

    The records of culled Gaussians (radius zero) are not written. Gaussians that cover no pixel center get an
    empty bounding box. `bounds` is an int32 view of the buffer of `records`. `slot_counts` (N,) is set to
    zero.
    """
    channels = colors.shape[1]
    slot_counts[start:stop] = 0
    for i in range(start, stop):
        if radii[i] == 0:
            continue
        bounds[i, BOUNDS + 2], bounds[i, BOUNDS + 3] = 0, -1
        if not opacities[i] >= np.float32(1.0 / 255.0):
            continue
        a, b, c = float(conics[i, 0]), float(conics[i, 1]), float(conics[i, 2])
        det = a * c - b * b
        if not det > 0.0:
            continue
        x, y = float(means2d[i, 0]), float(means2d[i, 1])
        log_opacity = math.log2(opacities[i])
        reach = 2.0 * (log_opacity - MIN_LOG_ALPHA) / (LOG2E * det)
        half_width, half_height = math.sqrt(reach * c), math.sqrt(reach * a)
        left = max(math.ceil(x - half_width - 0.5), 0.0)
        right = min(math.floor(x + half_width - 0.5), width - 1.0)
        top = max(math.ceil(y - half_height - 0.5), 0.0)
        bottom = min(math.floor(y + half_height - 0.5), height - 1.0)
        if left > right or top > bottom:
            continue
        records[i, MEAN] = x
        records[i, MEAN + 1] = y
        records[i, QUADRATIC] = 0.5 * LOG2E * a
        records[i, QUADRATIC + 1] = LOG2E * b
        records[i, QUADRATIC + 2] = 0.5 * LOG2E * c
        records[i, LOG_OPACITY] = log_opacity
        bounds[i, BOUNDS] = left
        bounds[i, BOUNDS + 1] = right
        bounds[i, BOUNDS + 2] = top
        bounds[i, BOUNDS + 3] = bottom
        records[i, TILT] = -b / c * half_width
        for k in range(channels):
            records[i, CHANNELS + k] = colors[i, k]


@kernel
def sort_by_depth(radii, depths, order, scratch, offsets):
    """Write the indices of visible Gaussians to `order` (N,), front to back, and return their number.

    The function is a stable radix sort: positive float32 values have the same order as their bits read as
    unsigned integers. Two passes suffice if the largest depth is less than about 256 times the smallest
    depth. `scratch` (N,) and `offsets` (2^_RADIX_BITS + 1,) are temporary storage.
    """
    bits = depths.view(np.uint32)
    lowest, highest = np.uint32(0xFFFFFFFF), np.uint32(0)
    count = 0
    for i in range(len(radii)):
        order[count] = i  # overwritten by the next Gaussian if this one is culled
        if radii[i] > 0:
            count += 1
            lowest, highest = min(lowest, bits[i]), max(highest, bits[i])
    source, target = order[:count], scratch[:count]
    mask = np.uint32((1 << _RADIX_BITS) - 1)
    shift = np.uint32(0)
    while count > 0 and (highest - lowest) >> shift > 0:
        offsets[:] = 0
        for i in source:
            offsets[((bits[i] - lowest) >> shift & mask) + 1] += 1
        for digit in range(1 << _RADIX_BITS):
            offsets[digit + 1] += offsets[digit]
        for i in source:
            digit = (bits[i] - lowest) >> shift & mask
            target[offsets[digit]] = i
            offsets[digit] += 1
        source, target = target, source
        shift += np.uint32(_RADIX_BITS)
    order[:count] = source
    return count


@kernel
def sort_and_write_records(counter, width, height, radii, means2d, conics, opacities, depths, colors,
                           records, slot_counts, order, scratch, order_length):  # fmt: skip
    """Sort the Gaussians by depth in one thread, while the other threads write the records of the Gaussians.

    The outputs are `records` (N, record length), `order` (N,) and the number of visible Gaussians in `order`,
    `order_length` (1,). `slot_counts` (N,) is set to zero. `scratch` (N,) is temporary storage for sorting.
    `ProjectedSplats` describes the arguments from `radii` to `colors`. `counter` (2, 16) has the numbers of
    claimed and finished work items (see the module `threads`).
    """
    bounds = records.view(np.int32)
    digit_offsets = np.empty((1 << _RADIX_BITS) + 1, np.int32)
    while True:
        start = claim(counter, CHUNK) - CHUNK
        if start >= len(radii):
            break
        if start < 0:
            order_length[0] = sort_by_depth(radii, depths, order, scratch, digit_offsets)
        else:
            write_records(
                start, min(start + CHUNK, len(radii)), width, height, radii, means2d, conics, opacities,
                colors, records, bounds, slot_counts,
            )  # fmt: skip
        finish_item(counter)
    wait_for_items(counter, 1 + -(-len(radii) // CHUNK))


@inlined
def tile_spans(records, bounds, splat, tile_shift, tiles_wide, spans):
    """Find the first and last tile that a splat's ellipse intersects in each row of tiles.

    The ellipse contains the pixels where the splat is drawn. For each row of tiles that the ellipse
    intersects, the flat indices of the two tiles (row * tiles_wide + column) are written to the next row of
    `spans` (rows of tiles, 2). Returns the number of rows written. The equations are the same as in
    `tile_coverage`, with tiles of 2^tile_shift pixels per side instead of blocks. `splat` is the splat's row
    in `records`; `bounds` is an int32 view of the buffer of `records`.
    """
    left, right = bounds[splat, BOUNDS], bounds[splat, BOUNDS + 1]
    top, bottom = bounds[splat, BOUNDS + 2], bounds[splat, BOUNDS + 3]
    first_row, last_row = top >> tile_shift, bottom >> tile_shift
    first_column, last_column = left >> tile_shift, right >> tile_shift
    if first_row == last_row or first_column == last_column:
        for row in range(first_row, last_row + 1):
            spans[row - first_row, 0] = row * tiles_wide + first_column
            spans[row - first_row, 1] = row * tiles_wide + last_column
        return last_row - first_row + 1
    a, b = float(records[splat, QUADRATIC]), float(records[splat, QUADRATIC + 1])
    det = 4.0 * a * records[splat, QUADRATIC + 2] - b * b
    limit = 4.0 * a * (records[splat, LOG_OPACITY] - MIN_LOG_ALPHA)
    x, y, tilt = records[splat, MEAN], records[splat, MEAN + 1], records[splat, TILT]
    rows = 0
    for row in range(first_row, last_row + 1):
        low = max(top, row << tile_shift) + 0.5 - y
        high = min(bottom, ((row + 1) << tile_shift) - 1) + 0.5 - y
        f = max(low, min(high, -tilt))
        reach = math.sqrt(max(limit - det * f * f, 0.0))
        first = max(left, math.floor(x - (b * f + reach) / (2.0 * a) - 0.5))
        f = max(low, min(high, tilt))
        reach = math.sqrt(max(limit - det * f * f, 0.0))
        last = min(right, math.ceil(x - (b * f - reach) / (2.0 * a) - 0.5))
        if first <= last:
            spans[rows, 0] = row * tiles_wide + (first >> tile_shift)
            spans[rows, 1] = row * tiles_wide + (last >> tile_shift)
            rows += 1
    return rows


@kernel
def count_intersections(counter, order, records, tile_shift, tiles_wide, tiles_high,
                        tile_counts, slot_counts):  # fmt: skip
    """Count the intersections of splats with tiles.

    `TileLists` describes `records`, `order` and `tiles_wide`. There are `tiles_high` rows of tiles, and a
    tile has 2^tile_shift pixels per side. `counter` (2, 16) has the numbers of claimed and finished work
    items (see the module `threads`).

    `order` is divided into runs of consecutive Gaussians; each run is a work item. For each run and each
    tile, the number of intersections is added to `tile_counts` (runs, tiles + padding); the elements of the
    padding are not used. For each Gaussian in `order`, the number of intersections is written to
    `slot_counts` (N,).
    """
    parts = len(tile_counts)
    spans = np.empty((tiles_high, 2), np.int64)
    bounds = records.view(np.int32)
    length = records.shape[1]
    while True:
        part = claim(counter, 1)
        if part >= parts:
            break
        for i in range(part * len(order) // parts, (part + 1) * len(order) // parts):
            splat = order[i]
            prefetch(records, order[min(i + AHEAD, len(order) - 1)] * length)
            total = 0
            for row in range(tile_spans(records, bounds, splat, tile_shift, tiles_wide, spans)):
                total += spans[row, 1] - spans[row, 0] + 1
                for tile in range(spans[row, 0], spans[row, 1] + 1):
                    tile_counts[part, tile] += 1
            slot_counts[splat] = total
        finish_item(counter)
    wait_for_items(counter, parts)


@kernel
def compute_offsets(tile_counts, slot_counts, tile_offsets, slot_offsets):
    """Convert the counts of intersections to the start offsets of tiles, splats and runs.

    `count_intersections` and `TileLists` describe the arguments. `tile_counts` is overwritten with
    `TileLists.part_offsets`: for each run and each tile, the position in `TileLists.splats` of the run's
    first splat in the tile's list.
    """
    tiles = len(tile_offsets) - 1
    total = 0
    for tile in range(tiles):
        tile_offsets[tile] = total
        for part in range(len(tile_counts)):
            count = tile_counts[part, tile]
            tile_counts[part, tile] = total
            total += count
    tile_offsets[tiles] = total
    total = 0
    for i in range(len(slot_counts)):
        slot_offsets[i] = total
        total += slot_counts[i]
    slot_offsets[len(slot_counts)] = total


@kernel
def fill_tiles(counter, order, records, tile_shift, tiles_wide, tiles_high, part_offsets,
               slot_offsets, splats, slots):  # fmt: skip
    """Append every splat to the lists of all tiles that its ellipse intersects, in order of depth.

    Writes `splats` and `slots` (intersections,), and advances `part_offsets` (see `TileLists`).
    `count_intersections` and `TileLists` describe the other arguments.
    """
    parts = len(part_offsets)
    spans = np.empty((tiles_high, 2), np.int64)
    bounds = records.view(np.int32)
    length = records.shape[1]
    while True:
        part = claim(counter, 1)
        if part >= parts:
            break
        for i in range(part * len(order) // parts, (part + 1) * len(order) // parts):
            splat = order[i]
            prefetch(records, order[min(i + AHEAD, len(order) - 1)] * length)
            slot = slot_offsets[splat]
            for row in range(tile_spans(records, bounds, splat, tile_shift, tiles_wide, spans)):
                for tile in range(spans[row, 0], spans[row, 1] + 1):
                    entry = part_offsets[part, tile]
                    part_offsets[part, tile] = entry + 1
                    splats[entry] = splat
                    slots[entry] = slot
                    slot += 1
        finish_item(counter)
    wait_for_items(counter, parts)


@kernel
def prepare_tile_lists(counters, width, height, radii, means2d, conics, opacities, depths, colors, tile_shift,
                    tiles_wide, tiles_high, records, order, scratch, order_length, tile_counts, slot_counts,
                    tile_offsets, slot_offsets):  # fmt: skip
    """Prepare the tile lists in three stages: records and depth order, intersection counts, start offsets.

    `counters` (stages, 2, 16) has one counter per stage. `sort_and_write_records`, `count_intersections` and
    `compute_offsets`, which compute the stages, describe the other arguments.
    """
    sort_and_write_records(
        counters[0], width, height, radii, means2d, conics, opacities, depths, colors, records, slot_counts,
        order, scratch, order_length,
    )  # fmt: skip
    count_intersections(
        counters[1], order[: order_length[0]], records, tile_shift, tiles_wide, tiles_high, tile_counts,
        slot_counts,
    )  # fmt: skip
    if claim(counters[2], 1) == 0:
        compute_offsets(tile_counts, slot_counts, tile_offsets, slot_offsets)


def bin_splats(projected: ProjectedSplats, width: int, height: int, tile_size: int) -> TileLists:
    """Prepare the tile lists of one camera; the kernel `fill_tiles` fills them afterwards.

    Args:
        projected: Gaussians projected into the camera.
        width: Image width in pixels.
        height: Image height in pixels.
        tile_size: Width and height of a tile in pixels, a power of two.

    Returns:
        The tile lists, with `splats` and `slots` allocated but not yet written.
    """
    count, channels = projected.colors.shape
    tiles_wide, tiles_high = -(-width // tile_size), -(-height // tile_size)
    tiles = tiles_wide * tiles_high
    records, slot_counts = np.empty((count, record_length(channels)), np.float32), np.empty(count, np.int64)
    order, scratch, order_length = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(1, np.int64)
    parts = _PARTS_PER_THREAD * get_num_threads()
    part_offsets = np.zeros((parts, tiles + 8), np.int64)  # the padding separates runs by a cache line
    tile_offsets, slot_offsets = np.empty(tiles + 1, np.int64), np.empty(count + 1, np.int64)
    run_on_all_threads(
        prepare_tile_lists, width, height, *projected,
        tile_size.bit_length() - 1, tiles_wide, tiles_high, records, order, scratch, order_length,
        part_offsets, slot_counts, tile_offsets, slot_offsets,
    )  # fmt: skip
    intersections = int(tile_offsets[-1])
    splats, slots = np.empty(intersections, np.int32), np.empty(intersections, np.int32)
    tile_order = (tile_offsets[:-1] - tile_offsets[1:]).argsort(kind="stable")
    order = order[: order_length[0]]
    return TileLists(
        records, order, part_offsets, tile_offsets, splats, slots, slot_offsets, tile_order, tiles_wide
    )
