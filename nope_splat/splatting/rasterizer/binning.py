"""Sorting of splats into tiles, front to back.

A splat is seen where its opacity alpha = o exp(-sigma), with sigma = (a dx^2 + 2 b dx dy + c dy^2) / 2,
reaches 1/255: inside the ellipse sigma <= ln(255 o). Splats are sorted once by depth; then a counting
sort, which keeps that order, puts each into the list of every tile that its ellipse meets.

Compositing reads one *record* of float32 per splat, `record_length(channels)` long:

    0  1    mean2d
    2  3  4 a/2, b, c/2 times log2(e): alpha is then 2 to the power of one quadratic form
    5       log2(o)
    6 .. 9  first and last column, first and last row of the ellipse's bounding box, as int32
    10      height of the ellipse's rightmost point above its center, see `footprint`
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
    await_all,
    claim,
    finish,
    get_num_threads,
    run_on_all_threads,
)

MEAN, QUADRATIC, LOG_OPACITY, BOUNDS, TILT, CHANNELS = 0, 2, 5, 6, 10, 11
MIN_LOG_ALPHA = -7.994353436858858
"""log2(1/255): what is fainter is not drawn."""

LOG2E = 1.4426950408889634

AHEAD = 8
"""How many splats ahead a loop front to back asks for their records, which lie all over the memory."""

_RADIX_BITS = 13
_PARTS_PER_THREAD = 4
"""Runs of splats that a thread sorts into tiles: near ones meet more tiles than far ones."""


def record_length(channels: int) -> int:
    """Length of a record: whole cache lines of 16 float32."""
    return -(-(CHANNELS + channels) // 16) * 16


class TileLists(NamedTuple):
    """What compositing reads of every Gaussian, and the list of those that meet each tile, front to back.

    An *intersection* is a splat in the list of a tile. Memory: 8 bytes per intersection (`splats` and
    `slots`), and during the backward pass another `4 * slot_length` for the gradient of its slot: 64 bytes
    for up to 8 channels.

    Attributes:
        records: One per Gaussian; that of a culled one is undefined. (N, record length), float32.
        order: The Gaussians that are not culled, front to back. (seen,), int32.
        part_offsets: Where each run of `order` starts in the list of each tile; `fill_tiles` uses it up.
            (runs, at least tiles), int64.
        tile_offsets: Where the list of each tile starts; the last entry is the number of intersections.
            (tiles + 1,), int64.
        splats: The Gaussian of every intersection, tile by tile. (intersections,), int32.
        slots: Where that intersection's gradient belongs: numbered Gaussian by Gaussian. (intersections,),
            int32.
        slot_offsets: Where the slots of each Gaussian start; one that is not seen has none. (N + 1,), int64.
        tile_order: Tiles with the longest lists first. (tiles,), int64.
        tiles_wide: Tiles in a row.
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
    """Write the records of a run of Gaussians; one that shows nowhere gets a box without rows."""
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
def sort_by_depth(radii, depths, order, other, offsets):
    """Write the Gaussians that are not culled to `order` (N,), front to back; how many they are.

    `other` (N,) and `offsets` (digits + 1,) are for its own use.

    Stable radix sort of positive float32 depths, whose bits order as unsigned integers do, by as many bits
    as they span: two digits unless the farthest is hundreds of times as deep as the nearest.
    """
    bits = depths.view(np.uint32)
    lowest, highest = np.uint32(0xFFFFFFFF), np.uint32(0)
    count = 0
    for i in range(len(radii)):
        order[count] = i  # overwritten by the next if this one is culled
        if radii[i] > 0:
            count += 1
            lowest, highest = min(lowest, bits[i]), max(highest, bits[i])
    source, target = order[:count], other[:count]
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
                           records, slot_counts, order, other, order_length):  # fmt: skip
    """Whoever comes first sorts the Gaussians by depth, the others meanwhile write their records.

    Outputs: records (N, record length), slot_counts (N,) zeros, order (N,) and its length (1,). `other` (N,)
    is for sorting.
    """
    bounds = records.view(np.int32)
    digit_offsets = np.empty((1 << _RADIX_BITS) + 1, np.int32)
    while True:
        start = claim(counter, CHUNK) - CHUNK
        if start >= len(radii):
            break
        if start < 0:
            order_length[0] = sort_by_depth(radii, depths, order, other, digit_offsets)
        else:
            write_records(
                start, min(start + CHUNK, len(radii)), width, height, radii, means2d, conics, opacities,
                colors, records, bounds, slot_counts,
            )  # fmt: skip
        finish(counter)
    await_all(counter, 1 + -(-len(radii) // CHUNK))


@inlined
def tile_spans(records, bounds, splat, tile_shift, tiles_wide, spans):
    """The tiles that a splat's ellipse meets, as (first, last) tile in `spans` for every row of tiles.

    This is the reckoning of `footprint`, for tiles of 2^tile_shift pixels. Returns the number of rows.
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
    """Count intersections by part of the splats and tile, (parts, at least tiles), and by record, (R,)."""
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
        finish(counter)
    await_all(counter, parts)


@kernel
def offsets_of(tile_counts, slot_counts, tile_offsets, slot_offsets):
    """Running sums: where tiles and splats start; `tile_counts` becomes where each part of a tile starts."""
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
    """Put every splat into the lists of its tiles, in order of depth."""
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
                    place = part_offsets[part, tile]
                    part_offsets[part, tile] = place + 1
                    splats[place] = splat
                    slots[place] = slot
                    slot += 1
        finish(counter)
    await_all(counter, parts)


@kernel
def count_and_order(counters, width, height, radii, means2d, conics, opacities, depths, colors, tile_shift,
                    tiles_wide, tiles_high, records, order, other, order_length, tile_counts, slot_counts,
                    tile_offsets, slot_offsets):  # fmt: skip
    """Find what is in front of what, and where the list of every tile starts: all but the lists themselves.

    Three stages: records and order, numbers of intersections, their running sums.
    """
    sort_and_write_records(
        counters[0], width, height, radii, means2d, conics, opacities, depths, colors, records, slot_counts,
        order, other, order_length,
    )  # fmt: skip
    count_intersections(
        counters[1], order[: order_length[0]], records, tile_shift, tiles_wide, tiles_high, tile_counts,
        slot_counts,
    )  # fmt: skip
    if claim(counters[2], 1) == 0:
        offsets_of(tile_counts, slot_counts, tile_offsets, slot_offsets)


def bin_splats(
    radii: NDArray[np.int32],
    means2d: NDArray[np.float32],
    conics: NDArray[np.float32],
    opacities: NDArray[np.float32],
    depths: NDArray[np.float32],
    colors: NDArray[np.float32],
    width: int,
    height: int,
    tile_size: int,
) -> TileLists:
    """Lay out the lists of the tiles that the splats of one camera meet; `fill_tiles` writes them.

    Args:
        radii: Zero for splats that are culled. (N,)
        means2d: Centers in pixels. (N, 2)
        conics: Inverse covariances (a, b, c). (N, 3)
        opacities: (N,)
        depths: (N,)
        colors: (N, channels)
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        tile_size: Width and height of a tile in pixels, a power of two.
    """
    count, channels = colors.shape
    tiles_wide, tiles_high = -(-width // tile_size), -(-height // tile_size)
    tiles = tiles_wide * tiles_high
    records, slot_counts = np.empty((count, record_length(channels)), np.float32), np.empty(count, np.int64)
    order, other, order_length = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(1, np.int64)
    parts = _PARTS_PER_THREAD * get_num_threads()
    part_offsets = np.zeros((parts, tiles + 8), np.int64)  # parts lie a cache line apart
    tile_offsets, slot_offsets = np.empty(tiles + 1, np.int64), np.empty(count + 1, np.int64)
    run_on_all_threads(
        count_and_order, width, height, radii, means2d, conics, opacities, depths, colors,
        tile_size.bit_length() - 1, tiles_wide, tiles_high, records, order, other, order_length,
        part_offsets, slot_counts, tile_offsets, slot_offsets,
    )  # fmt: skip
    intersections = int(tile_offsets[-1])
    splats, slots = np.empty(intersections, np.int32), np.empty(intersections, np.int32)
    tile_order = (tile_offsets[:-1] - tile_offsets[1:]).argsort(kind="stable")
    order = order[: order_length[0]]
    return TileLists(
        records, order, part_offsets, tile_offsets, splats, slots, slot_offsets, tile_order, tiles_wide
    )
