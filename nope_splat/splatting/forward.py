"""Compositing of splats, front to back.

Pixel by pixel, with transmittance T = 1 before the first splat,

    alpha  = min(0.999, o exp(-sigma)),   skipped below 1/255
    color += T alpha c
    T     *= 1 - alpha,                   a pixel ends before the splat that would bring T down to 1e-4

and at the end the background colour is added with weight T. One thread composites one tile, splat by splat,
each over the blocks of pixels that its bounding box meets; a block is one SIMD register (see `simd`). The
state of a tile's pixels lies block after block. A pixel that has ended holds its T with a minus sign.
"""

from __future__ import annotations

import numpy as np

from nope_splat.splatting.binning import BOUNDS, CHANNELS, LOG_OPACITY, MEAN, MIN_LOG_ALPHA, QUADRATIC
from nope_splat.splatting.channels import add_weighted, broadcast_channels, load_channels, store_channels
from nope_splat.splatting.simd import (
    any_lane,
    block_columns,
    block_height,
    block_rows,
    block_width,
    exp2,
    floats,
    ints,
    load,
    minimum,
    select,
    store,
)
from nope_splat.splatting.threads import claim, kernel

MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)
NEVER = np.int32(2**31 - 1)
"""Where a pixel ends that has not ended."""

_MIN_LOG_ALPHA = np.float32(MIN_LOG_ALPHA)


@kernel
def begin_tile(lanes, width, height, blocks_wide, blocks_high, transmittance):
    """Set T = 1 inside the image, of which `width` x `height` pixels are left; -1 beyond. Blocks with a pixel."""
    live_blocks = 0
    slot = 0
    for block_y in range(blocks_high):
        for block_x in range(blocks_wide):
            x, y = block_x * block_width(lanes), block_y * block_height(lanes)
            if x < width and y < height:
                live_blocks += 1
            for row in range(block_height(lanes)):
                for column in range(block_width(lanes)):
                    inside = x + column < width and y + row < height
                    transmittance[slot] = np.float32(1.0) if inside else np.float32(-1.0)
                    slot += 1
    return live_blocks


@kernel
def composite_tile(lanes, background, tile_x, tile_y, blocks_wide, blocks_high, live_blocks, splats, records,
                   bounds, transmittance, end, planes):  # fmt: skip
    """Composite a list of splats over a tile; how many of them were needed.

    `transmittance`, `end` (pixels,) and `planes` (channels * pixels,) are the state of the tile's pixels.
    """
    pixels = len(transmittance)
    size = block_width(lanes) * block_height(lanes)
    zero = floats(lanes, np.float32(0.0))
    for k in range(len(splats)):
        splat = records[splats[k]]
        box = bounds[splats[k]]
        a, b, c = splat[QUADRATIC], splat[QUADRATIC + 1], splat[QUADRATIC + 2]
        log_opacity = splat[LOG_OPACITY]
        color = broadcast_channels(lanes, splat, CHANNELS, background)
        first_x = max(0, box[BOUNDS] - tile_x) // block_width(lanes)
        last_x = min(blocks_wide - 1, (box[BOUNDS + 1] - tile_x) // block_width(lanes))
        first_y = max(0, box[BOUNDS + 2] - tile_y) // block_height(lanes)
        last_y = min(blocks_high - 1, (box[BOUNDS + 3] - tile_y) // block_height(lanes))
        left = splat[MEAN] - np.float32(tile_x + first_x * block_width(lanes)) - block_columns(lanes)
        top = splat[MEAN + 1] - np.float32(tile_y) - block_rows(lanes)
        for block_y in range(first_y, last_y + 1):
            dy = top - np.float32(block_y * block_height(lanes))
            b_dy = b * dy
            at_row = log_opacity - c * dy * dy
            dx = left
            slot = (block_y * blocks_wide + first_x) * size
            for _ in range(first_x, last_x + 1):
                log_alpha = at_row - dx * (a * dx + b_dy)
                before = load(lanes, transmittance, slot)
                drawn = (log_alpha >= _MIN_LOG_ALPHA) & (before > zero)
                if any_lane(drawn):
                    alpha = minimum(exp2(minimum(log_alpha, log_opacity)), MAX_ALPHA)
                    weight = select(drawn, alpha * before, zero)
                    after = before - weight
                    ended = drawn & (after <= MIN_TRANSMITTANCE)
                    if any_lane(ended):
                        weight = select(ended, zero, weight)
                        after = select(ended, zero - before, after)
                        store(end, slot, select(ended, ints(lanes, np.int32(k)), load(lanes, end, slot)))
                        if not any_lane(after > zero):
                            live_blocks -= 1
                    store(transmittance, slot, after)
                    totals = load_channels(lanes, planes, slot, pixels, background)
                    store_channels(planes, slot, pixels, add_weighted(totals, weight, color))
                slot += size
                dx = dx - np.float32(block_width(lanes))
        if live_blocks == 0:
            return k + 1
    return len(splats)


@kernel
def write_tile(lanes, background, tile_x, tile_y, width, height, blocks_wide, blocks_high, transmittance,
               planes, image, alphas):  # fmt: skip
    """Add the background and write the pixels of a tile: image (H, W, channels), alphas (H, W)."""
    pixels = len(transmittance)
    slot = 0
    for block_y in range(blocks_high):
        for block_x in range(blocks_wide):
            for row in range(block_height(lanes)):
                y = tile_y + block_y * block_height(lanes) + row
                for column in range(block_width(lanes)):
                    x = tile_x + block_x * block_width(lanes) + column
                    rest = abs(transmittance[slot])
                    transmittance[slot] = rest
                    if x < width and y < height:
                        for channel in range(len(background)):
                            color = planes[channel * pixels + slot]
                            image[y, x, channel] = color + rest * background[channel]
                        alphas[y, x] = np.float32(1.0) - rest
                    slot += 1


@kernel
def composite(counter, lanes, background, width, height, tile_size, tiles_wide, tile_order, tile_offsets,
              splats, records, transmittance, end, needed, image, alphas):  # fmt: skip
    """Composite all tiles.

    `background` is a tuple of float32, one per channel; the lists of splats are those of `TileLists`. Outputs:
    image (H, W, channels) and alphas (H, W); for the backward pass, per tile and pixel (block after block),
    transmittance and end (tiles, pixels) and, per tile, how many splats were needed (tiles,).
    """
    bounds = records.view(np.int32)
    blocks_wide, blocks_high = tile_size // block_width(lanes), tile_size // block_height(lanes)
    planes = np.empty(len(background) * tile_size * tile_size, np.float32)
    while True:
        turn = claim(counter, 1)
        if turn >= len(tile_order):
            break
        tile = tile_order[turn]
        tile_x, tile_y = tile % tiles_wide * tile_size, tile // tiles_wide * tile_size
        planes[:] = np.float32(0.0)
        end[tile] = NEVER
        live_blocks = begin_tile(
            lanes, width - tile_x, height - tile_y, blocks_wide, blocks_high, transmittance[tile]
        )
        listed = splats[tile_offsets[tile] : tile_offsets[tile + 1]]
        needed[tile] = composite_tile(
            lanes, background, tile_x, tile_y, blocks_wide, blocks_high, live_blocks, listed, records, bounds,
            transmittance[tile], end[tile], planes,
        )  # fmt: skip
        write_tile(
            lanes, background, tile_x, tile_y, width, height, blocks_wide, blocks_high, transmittance[tile],
            planes, image, alphas,
        )  # fmt: skip
