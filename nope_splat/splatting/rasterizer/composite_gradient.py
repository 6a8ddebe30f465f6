"""Gradient of compositing, back to front.

Let v and v_alpha be the gradients of the loss with respect to the color and the alpha of a pixel. Let R be
the dot product of v with the composited color of everything behind a splat; behind the last splat, R =
background . v - v_alpha. Iterating from the last splat to the first restores the transmittance before each
splat, T = T_after / (1 - alpha), and gives

    d_color = alpha T v
    d_alpha = T (c . v - R)
    R      += alpha (c . v - R)

for a splat of color c. Since alpha = o exp(-sigma), the gradient with respect to sigma is d_sigma = -m, where
m = alpha d_alpha. If alpha was clamped at 0.999, m = 0. The gradients of mean, conic (a, b, c) and opacity
are sums over pixels of m times a polynomial in the offset (dx, dy) from the pixel to the mean, so six moments
suffice:

    M = sum m,  Mx = sum m dx,  My = sum m dy,  Mxx = sum m dx^2,  Mxy = sum m dx dy,  Myy = sum m dy^2
    d_mean2d = -(a Mx + b My, b Mx + c My),   d_conic = -(Mxx / 2, Mxy, Myy / 2),   d_o = M / o

The absolute gradients (AbsGS), sum |m (a dx + b dy)| and sum |m (b dx + c dy)|, are computed in the same
pass. Every intersection of a splat with a tile has a slot for its sums, and the slots of a splat are added in
order. No atomic additions are needed, and the result is bitwise the same for any number of threads.
"""

from __future__ import annotations

import numpy as np

from nope_splat.splatting.rasterizer.binning import (
    AHEAD,
    CHANNELS,
    LOG2E,
    LOG_OPACITY,
    MEAN,
    MIN_LOG_ALPHA,
    QUADRATIC,
)
from nope_splat.splatting.rasterizer.composite import MAX_ALPHA, num_pixels_inside
from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.simd import Lanes, absolute, any_lane, exp2, minimum, select
from nope_splat.splatting.rasterizer.simd_channels import (
    add_weighted,
    broadcast_channels,
    dot_channels,
    load_channels,
    zero_channels,
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
    store_sums,
)
from nope_splat.splatting.rasterizer.threads import CHUNK, claim, finish_item, wait_for_items
from nope_splat.splatting.rasterizer.tile_coverage import covered_blocks

NUM_SUMS = 8
"""Number of sums at the start of a slot, before the gradients of the color channels: M, Mx, My, Mxx, Mxy, Myy
and the two absolute gradients (see the module docstring)."""

_MIN_LOG_ALPHA = np.float32(MIN_LOG_ALPHA)
_LN2 = np.float32(1.0 / LOG2E)


def slot_length(channels: int, lanes: Lanes) -> int:
    """Compute the length of a slot in float32 values, a multiple of the lane count.

    A slot stores the gradient sums of one intersection of a splat with a tile.
    """
    return -(-(NUM_SUMS + channels) // lanes.count) * lanes.count


@inlined
def read_tile(lanes, background, tile_x, tile_y, width, height, blocks_wide, blocks_high, d_image, d_alphas,
              planes, behind):  # fmt: skip
    """Write a tile's color gradients to `planes`, one plane per channel, and the initial R to `behind`.

    For each pixel, the initial R is the dot product of the background color with the pixel's color gradient,
    minus the gradient of the pixel's alpha. If `d_alphas` is empty, its elements count as zero.
    """
    pixels, channels = len(behind), len(background)
    planes[:] = np.float32(0.0)
    behind[:] = np.float32(0.0)
    for block_y in range(blocks_high):
        y = tile_y + block_y * block_height(lanes)
        for block_x in range(blocks_wide):
            x = tile_x + block_x * block_width(lanes)
            columns = num_pixels_inside(x, block_width(lanes), width)
            block = (block_y * blocks_wide + block_x) * lane_count(lanes)
            for row in range(num_pixels_inside(y, block_height(lanes), height)):
                pixel, slot = (y + row) * width + x, block + row * block_width(lanes)
                for column in range(columns):
                    total = -d_alphas[pixel + column] if len(d_alphas) > 0 else np.float32(0.0)
                    for channel in range(channels):
                        gradient = d_image[(pixel + column) * channels + channel]
                        planes[channel * pixels + slot + column] = gradient
                        total += background[channel] * gradient
                    behind[slot + column] = total


@inlined
def splat_gradient(lanes, background, k, splat, slot, tile_x, tile_y, tile_size, records, bounds,
                   transmittance, stop, planes, behind, first_blocks, last_blocks, slot_sums):  # fmt: skip
    """Compute the gradient sums of splat `k` of a tile's list, and write them to the splat's slot.

    Splats must be processed back to front, because the function replaces the transmittance after the splat by
    the transmittance before the splat. `splat` and `slot` are the indices at which the splat's record and
    slot start in the flat arrays `records` (N * record length,) and `slot_sums` (intersections * slot
    length,).
    """
    pixels = tile_size * tile_size
    blocks_wide = tile_size // block_width(lanes)
    zero, one = floats(lanes, np.float32(0.0)), floats(lanes, np.float32(1.0))
    order = ints(lanes, np.int32(k))
    first_row, last_row = covered_blocks(
        lanes, records, bounds, splat, tile_x, tile_y, tile_size, first_blocks, last_blocks
    )
    a, b, c = records[splat + QUADRATIC], records[splat + QUADRATIC + 1], records[splat + QUADRATIC + 2]
    twice_a, twice_c = np.float32(2.0) * a, np.float32(2.0) * c
    log_opacity = records[splat + LOG_OPACITY]
    color = broadcast_channels(lanes, records, splat + CHANNELS, background)
    x = records[splat + MEAN] - np.float32(tile_x) - block_columns(lanes)
    y = records[splat + MEAN + 1] - np.float32(tile_y) - block_rows(lanes)
    m, mx, my, mxx, mxy, myy, abs_x, abs_y = zero, zero, zero, zero, zero, zero, zero, zero
    d_color = zero_channels(lanes, background)
    for row in range(first_row, last_row + 1):
        dy = y - np.float32(row * block_height(lanes))
        b_dy, twice_c_dy = b * dy, twice_c * dy
        at_row = log_opacity - c * dy * dy
        for column in range(first_blocks[row], last_blocks[row] + 1):
            dx = x - np.float32(column * block_width(lanes))
            log_alpha = at_row - dx * (a * dx + b_dy)
            pixel = (row * blocks_wide + column) * lane_count(lanes)
            drawn = (log_alpha >= _MIN_LOG_ALPHA) & (load(lanes, stop, pixel) > order)
            if any_lane(drawn):
                unclamped = select(drawn, exp2(log_alpha), zero)
                alpha = minimum(unclamped, MAX_ALPHA)
                before = load(lanes, transmittance, pixel) / (one - alpha)
                store(transmittance, pixel, before)
                weight = alpha * before
                v = load_channels(lanes, planes, pixel, pixels, background)
                d_color = add_weighted(d_color, weight, v)
                rest = load(lanes, behind, pixel)
                gain = dot_channels(color, v) - rest
                store(behind, pixel, rest + alpha * gain)
                moment = select(unclamped <= MAX_ALPHA, weight * gain, zero)
                moment_x = moment * dx
                m = m + moment
                mx = mx + moment_x
                my = my + moment * dy
                mxx = mxx + moment_x * dx
                mxy = mxy + moment_x * dy
                myy = myy + moment * dy * dy
                abs_x = abs_x + absolute(moment * (twice_a * dx + b_dy))
                abs_y = abs_y + absolute(moment * (b * dx + twice_c_dy))
    store_sums(slot_sums, slot, (m, mx, my, mxx, mxy, myy, abs_x, abs_y) + d_color)  # noqa: RUF005


@kernel
def tile_gradients(counter, lanes, background, tile_size, tiles_wide, tile_order, tile_offsets, splats, slots,
                   records, transmittance, stop, num_drawn, d_image, d_alphas, slot_sums):  # fmt: skip
    """Write the gradient sums of every intersection of a splat with a tile to the slot of the intersection.

    The sums are written to `slot_sums` (intersections, slot length); `NUM_SUMS` gives their order.
    """
    record_length, slot_length = records.shape[1], slot_sums.shape[1]
    records, slot_sums = records.reshape(-1), slot_sums.reshape(-1)
    bounds = records.view(np.int32)
    height, width, _ = d_image.shape
    d_image, d_alphas = d_image.reshape(-1), d_alphas.reshape(-1)
    pixels = tile_size * tile_size
    blocks_wide, blocks_high = tile_size // block_width(lanes), tile_size // block_height(lanes)
    first_blocks = np.empty(blocks_high + lane_count(lanes), np.int32)
    last_blocks = np.empty_like(first_blocks)
    remaining, behind = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    planes = np.empty(len(background) * pixels, np.float32)
    while True:
        turn = claim(counter, 1)
        if turn >= len(tile_order):
            break
        tile = tile_order[turn]
        first, last = tile_offsets[tile], tile_offsets[tile + 1]
        tile_x, tile_y = tile % tiles_wide * tile_size, tile // tiles_wide * tile_size
        for k in range(first + num_drawn[tile], last):
            for entry in range(slots[k] * slot_length, (slots[k] + 1) * slot_length):
                slot_sums[entry] = np.float32(0.0)
        tile_stop = stop[tile]
        remaining[:] = transmittance[tile]
        read_tile(
            lanes,
            background,
            tile_x,
            tile_y,
            width,
            height,
            blocks_wide,
            blocks_high,
            d_image,
            d_alphas,
            planes,
            behind,
        )
        for k in range(num_drawn[tile] - 1, -1, -1):
            ahead = first + max(k - AHEAD, 0)
            prefetch(records, splats[ahead] * record_length)
            prefetch(slot_sums, slots[ahead] * slot_length)
            splat_gradient(
                lanes, background, k, splats[first + k] * record_length, slots[first + k] * slot_length,
                tile_x, tile_y, tile_size, records, bounds, remaining, tile_stop, planes, behind,
                first_blocks, last_blocks, slot_sums,
            )  # fmt: skip
        finish_item(counter)
    wait_for_items(counter, len(tile_order))


@kernel
def gather_gradients(counter, lanes, records, slot_offsets, slot_sums, opacities,
                     d_means2d, d_means2d_abs, d_conics, d_opacities, d_colors):  # fmt: skip
    """Sum the slots of every splat, and convert the sums to gradients of mean, conic, opacity and color.

    `slot_sums` (intersections, slot length) has the sums from `tile_gradients`. The outputs are the gradients
    `d_means2d` (N, 2), `d_conics` (N, 3), `d_opacities` (N,) and `d_colors` (N, channels), and the absolute
    gradients of the means, `d_means2d_abs` (N, 2).
    """
    length = slot_sums.shape[1]
    slot_sums = slot_sums.reshape(-1)
    sums = np.empty(length, np.float32)
    while True:
        start = claim(counter, CHUNK)
        if start >= len(records):
            break
        stop = min(start + CHUNK, len(records))
        for output in (d_means2d, d_means2d_abs, d_conics, d_colors):
            output[start:stop] = np.float32(0.0)
        d_opacities[start:stop] = np.float32(0.0)
        for i in range(start, stop):
            if slot_offsets[i] == slot_offsets[i + 1]:
                continue
            for part in range(0, length, lane_count(lanes)):
                total = floats(lanes, np.float32(0.0))
                for slot in range(slot_offsets[i], slot_offsets[i + 1]):
                    total = total + load(lanes, slot_sums, slot * length + part)
                store(sums, part, total)
            a, b, c = records[i, QUADRATIC], records[i, QUADRATIC + 1], records[i, QUADRATIC + 2]
            d_means2d[i, 0] = -(np.float32(2.0) * a * sums[1] + b * sums[2]) * _LN2
            d_means2d[i, 1] = -(b * sums[1] + np.float32(2.0) * c * sums[2]) * _LN2
            d_conics[i, 0] = np.float32(-0.5) * sums[3]
            d_conics[i, 1] = -sums[4]
            d_conics[i, 2] = np.float32(-0.5) * sums[5]
            d_means2d_abs[i, 0] = sums[6] * _LN2
            d_means2d_abs[i, 1] = sums[7] * _LN2
            d_opacities[i] = sums[0] / opacities[i]
            for channel in range(d_colors.shape[1]):
                d_colors[i, channel] = sums[NUM_SUMS + channel]


@kernel
def composite_gradient(counters, lanes, background, tile_size, tiles_wide, tile_order, tile_offsets, splats,
                       slots, slot_offsets, records, transmittance, stop, num_drawn, opacities, d_image,
                       d_alphas, slot_sums, d_means2d, d_means2d_abs, d_conics, d_opacities,
                       d_colors):  # fmt: skip
    """Compute the gradient of `composite` per intersection of a splat with a tile, then sum it per splat.

    The outputs are the gradients `d_means2d` (N, 2), `d_conics` (N, 3), `d_opacities` (N,) and `d_colors` (N,
    channels), and the absolute gradients of the means, `d_means2d_abs` (N, 2). `slot_sums` (intersections,
    slot length) is temporary storage.
    """
    tile_gradients(
        counters[0], lanes, background, tile_size, tiles_wide, tile_order, tile_offsets, splats, slots,
        records, transmittance, stop, num_drawn, d_image, d_alphas, slot_sums,
    )  # fmt: skip
    gather_gradients(
        counters[1], lanes, records, slot_offsets, slot_sums, opacities, d_means2d, d_means2d_abs, d_conics,
        d_opacities, d_colors,
    )  # fmt: skip
