"""Compositing of splats, front to back.

For each pixel, starting with transmittance T = 1 and color = 0, a splat of opacity o and color c updates

    alpha  = min(0.999, o exp(-sigma)),   skipped below 1/255
    color += T alpha c
    T     *= 1 - alpha,                   a pixel is finished before a splat that would give T <= 1e-4

where sigma is the quadratic form of `binning`. At the end, the background color is added with weight T. One
thread composites one tile. The thread iterates over the tile's splats and, for each splat, over the blocks of
pixels that the splat covers. A block fills one SIMD register (see `simd`). The state of a tile's pixels is
stored block by block. The transmittance of a finished pixel is stored as -T.
"""

from __future__ import annotations

import numpy as np

from nope_splat.splatting.rasterizer.binning import (
    AHEAD,
    CHANNELS,
    LOG_OPACITY,
    MEAN,
    MIN_LOG_ALPHA,
    QUADRATIC,
    fill_tiles,
)
from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.simd import absolute, any_lane, exp2, minimum, select
from nope_splat.splatting.rasterizer.simd_channels import (
    add_weighted,
    broadcast_channels,
    load_channels,
    store_channels,
)
from nope_splat.splatting.rasterizer.simd_memory import (
    block_columns,
    block_height,
    block_rows,
    block_width,
    floats,
    ints,
    lane_count,
    load,
    prefetch,
    store,
)
from nope_splat.splatting.rasterizer.threads import claim
from nope_splat.splatting.rasterizer.tile_coverage import covered_blocks

MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)
NO_STOP = np.int32(2**31 - 1)
"""Value of `stop` for pixels that composite all splats of the tile, because their transmittance stays above
1e-4."""

_MIN_LOG_ALPHA = np.float32(MIN_LOG_ALPHA)


@inlined
def num_pixels_inside(start, length, limit):
    """Count the pixels of a run along one axis that are inside the image.

    The run has the indices `start` to `start + length - 1`; `limit` is the width or height of the image.
    """
    return max(0, min(length, limit - start))


@inlined
def initialize_tile(lanes, tile_x, tile_y, width, height, blocks_wide, blocks_high, transmittance):
    """Set the transmittance of a tile's pixels to 1 inside the image and to -1 outside.

    (tile_x, tile_y) is the tile's upper left pixel, and (`width`, `height`) is the image size in pixels.
    Returns the number of blocks that contain pixels of the image.
    """
    outside = floats(lanes, np.float32(-1.0))
    live_blocks = 0
    for block_y in range(blocks_high):
        rows = num_pixels_inside(tile_y + block_y * block_height(lanes), block_height(lanes), height)
        for block_x in range(blocks_wide):
            columns = num_pixels_inside(tile_x + block_x * block_width(lanes), block_width(lanes), width)
            slot = (block_y * blocks_wide + block_x) * lane_count(lanes)
            store(transmittance, slot, outside)
            for row in range(rows):
                for column in range(columns):
                    transmittance[slot + row * block_width(lanes) + column] = np.float32(1.0)
            live_blocks += rows > 0 and columns > 0
    return live_blocks


@inlined
def composite_tile(lanes, background, tile_x, tile_y, tile_size, live_blocks, splats, first, last, records,
                   bounds, length, transmittance, stop, planes, first_blocks, last_blocks):  # fmt: skip
    """Composite the splats with the indices `splats[first:last]` over a tile, front to back.

    Updates `transmittance` (pixels,), `stop` (pixels,) and the composited colors `planes` (channels *
    pixels,). A pixel is finished before the first splat that would reduce its transmittance to 1e-4 or less;
    `stop` receives the position of that splat, counted from `first`. Compositing ends when all pixels are
    finished; `live_blocks` is the number of blocks of pixels with an unfinished pixel. `records` and `bounds`
    are the same flat memory, as float32 and as int32, with `length` values per splat. `first_blocks` and
    `last_blocks` are temporary storage. Returns the number of splats processed.
    """
    pixels = tile_size * tile_size
    zero = floats(lanes, np.float32(0.0))
    blocks_wide = tile_size // block_width(lanes)
    for k in range(first, last):
        splat = splats[k] * length
        prefetch(records, splats[min(k + AHEAD, last - 1)] * length)
        first_row, last_row = covered_blocks(
            lanes, records, bounds, splat, tile_x, tile_y, tile_size, first_blocks, last_blocks
        )
        a, b, c = records[splat + QUADRATIC], records[splat + QUADRATIC + 1], records[splat + QUADRATIC + 2]
        log_opacity = records[splat + LOG_OPACITY]
        color = broadcast_channels(lanes, records, splat + CHANNELS, background)
        x = records[splat + MEAN] - np.float32(tile_x) - block_columns(lanes)
        y = records[splat + MEAN + 1] - np.float32(tile_y) - block_rows(lanes)
        for row in range(first_row, last_row + 1):
            dy = y - np.float32(row * block_height(lanes))
            b_dy = b * dy
            at_row = log_opacity - c * dy * dy
            for column in range(first_blocks[row], last_blocks[row] + 1):
                dx = x - np.float32(column * block_width(lanes))
                log_alpha = at_row - dx * (a * dx + b_dy)
                slot = (row * blocks_wide + column) * lane_count(lanes)
                before = load(lanes, transmittance, slot)
                drawn = (log_alpha >= _MIN_LOG_ALPHA) & (before > zero)
                if any_lane(drawn):
                    alpha = minimum(exp2(log_alpha), MAX_ALPHA)
                    weight = select(drawn, alpha * before, zero)
                    after = before - weight
                    ended = drawn & (after <= MIN_TRANSMITTANCE)
                    if any_lane(ended):
                        weight = select(ended, zero, weight)
                        after = select(ended, zero - before, before - weight)
                        position = ints(lanes, np.int32(k - first))
                        store(stop, slot, select(ended, position, load(lanes, stop, slot)))
                        if not any_lane(after > zero):
                            live_blocks -= 1
                    store(transmittance, slot, after)
                    totals = load_channels(lanes, planes, slot, pixels, background)
                    store_channels(planes, slot, pixels, add_weighted(totals, weight, color))
        if live_blocks == 0:
            return k + 1 - first
    return last - first


@inlined
def write_tile(lanes, background, tile_x, tile_y, width, height, blocks_wide, blocks_high, transmittance,
               planes, image, alphas):  # fmt: skip
    """Add the background to a tile, and write the tile's colors to `image` and opacities to `alphas`.

    `image` (H * W * channels,) and `alphas` (H * W,) are flat arrays of the whole image.
    """
    pixels, channels = len(transmittance), len(background)
    for block_y in range(blocks_high):
        y = tile_y + block_y * block_height(lanes)
        rows = num_pixels_inside(y, block_height(lanes), height)
        for block_x in range(blocks_wide):
            x = tile_x + block_x * block_width(lanes)
            columns = num_pixels_inside(x, block_width(lanes), width)
            block = (block_y * blocks_wide + block_x) * lane_count(lanes)
            store(transmittance, block, absolute(load(lanes, transmittance, block)))
            for row in range(rows):
                pixel, slot = (y + row) * width + x, block + row * block_width(lanes)
                for column in range(columns):
                    rest = transmittance[slot + column]
                    for channel in range(channels):
                        color = planes[channel * pixels + slot + column]
                        image[(pixel + column) * channels + channel] = color + rest * background[channel]
                    alphas[pixel + column] = np.float32(1.0) - rest


@kernel
def composite(counters, lanes, background, width, height, tile_shift, tiles_wide, order, part_offsets,
              slot_offsets, tile_order, tile_offsets, splats, slots, records, transmittance, stop, num_drawn,
              image, alphas):  # fmt: skip
    """Fill the splat lists of all tiles, then composite the tiles.

    `background` is a tuple of float32, one per channel; `TileLists` describes the arguments from `order` to
    `records`. The outputs are `image` (H, W, channels) and `alphas` (H, W, 1). Outputs for the backward pass
    are `transmittance` and `stop` (tiles, pixels), with pixels stored block by block, and `num_drawn`
    (tiles,), the number of splats processed in each tile.
    """
    tile_size = 1 << tile_shift
    fill_tiles(
        counters[0], order, records, tile_shift, tiles_wide, len(tile_order) // tiles_wide, part_offsets,
        slot_offsets, splats, slots,
    )  # fmt: skip
    length = records.shape[1]
    records, image, alphas = records.reshape(-1), image.reshape(-1), alphas.reshape(-1)
    bounds = records.view(np.int32)
    blocks_wide, blocks_high = tile_size // block_width(lanes), tile_size // block_height(lanes)
    planes = np.empty(len(background) * tile_size * tile_size, np.float32)
    first_blocks = np.empty(blocks_high + lane_count(lanes), np.int32)
    last_blocks = np.empty_like(first_blocks)
    while True:
        turn = claim(counters[1], 1)
        if turn >= len(tile_order):
            break
        tile = tile_order[turn]
        tile_x, tile_y = tile % tiles_wide * tile_size, tile // tiles_wide * tile_size
        tile_transmittance, tile_stop = transmittance[tile], stop[tile]
        planes[:] = np.float32(0.0)
        tile_stop[:] = NO_STOP
        live_blocks = initialize_tile(
            lanes, tile_x, tile_y, width, height, blocks_wide, blocks_high, tile_transmittance
        )
        num_drawn[tile] = composite_tile(
            lanes, background, tile_x, tile_y, tile_size, live_blocks, splats, tile_offsets[tile],
            tile_offsets[tile + 1], records, bounds, length, tile_transmittance, tile_stop, planes,
            first_blocks, last_blocks,
        )  # fmt: skip
        write_tile(
            lanes, background, tile_x, tile_y, width, height, blocks_wide, blocks_high, tile_transmittance,
            planes, image, alphas,
        )  # fmt: skip
