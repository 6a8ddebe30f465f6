"""Gradient of compositing, back to front.

With v the gradient of the loss with respect to a pixel's colour and v_alpha to its alpha, walking from the
last splat to the first restores T before each splat, T = T_after / (1 - alpha), and

    d_color = alpha T v
    d_alpha = T (c . v) - S / (1 - alpha),    S = what lies behind: sum over later splats of alpha T (c . v),
                                              plus T_end (background . v - v_alpha)

Since alpha = o exp(-sigma), d_sigma = -alpha d_alpha =: -m, unless alpha was cut at 0.999. The gradients of
mean, conic and opacity are sums over pixels of m times a polynomial in (dx, dy), so six moments suffice:

    M = sum m,  Mx = sum m dx,  My = sum m dy,  Mxx = sum m dx^2,  Mxy = sum m dx dy,  Myy = sum m dy^2
    d_mean2d = -(a Mx + b My, b Mx + c My),   d_conic = -(Mxx / 2, Mxy, Myy / 2),   d_o = M / o

Absolute gradients (AbsGS) sum |m (a dx + b dy)| and |m (b dx + c dy)| in the same pass. Every intersection has
a slot for its sums, and the slots of a splat are added in their order: no atomics, the same bits for any
number of threads.
"""

from __future__ import annotations

import numpy as np

from nope_splat.splatting.binning import BOUNDS, CHANNELS, LOG2E, LOG_OPACITY, MEAN, MIN_LOG_ALPHA, QUADRATIC
from nope_splat.splatting.channels import (
    add_weighted,
    broadcast_channels,
    dot_channels,
    load_channels,
    sum_channels,
    zero_channels,
)
from nope_splat.splatting.forward import MAX_ALPHA
from nope_splat.splatting.simd import (
    absolute,
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
    sum_lanes,
)
from nope_splat.splatting.threads import CHUNK, claim, kernel

SUMS = 8
"""Sums in a slot before those of the channels: M, Mx, My, Mxx, Mxy, Myy and the two absolute gradients."""

_MIN_LOG_ALPHA = np.float32(MIN_LOG_ALPHA)


@kernel
def read_tile(lanes, background, tile_x, tile_y, blocks_wide, blocks_high, transmittance, d_image, d_alphas,
              planes, behind):  # fmt: skip
    """Gradients of a tile's pixels into `planes` (channels * pixels,), what lies behind all splats into `behind`."""
    height, width = d_alphas.shape
    pixels = len(transmittance)
    slot = 0
    for block_y in range(blocks_high):
        for block_x in range(blocks_wide):
            for row in range(block_height(lanes)):
                y = tile_y + block_y * block_height(lanes) + row
                for column in range(block_width(lanes)):
                    x = tile_x + block_x * block_width(lanes) + column
                    behind[slot] = np.float32(0.0)
                    if x < width and y < height:
                        total = -d_alphas[y, x]
                        for channel in range(len(background)):
                            gradient = d_image[y, x, channel]
                            planes[channel * pixels + slot] = gradient
                            total += background[channel] * gradient
                        behind[slot] = transmittance[slot] * total
                    else:
                        for channel in range(len(background)):
                            planes[channel * pixels + slot] = np.float32(0.0)
                    slot += 1


@kernel
def splat_gradient(lanes, background, k, tile_x, tile_y, blocks_wide, blocks_high, splat, box, transmittance, end,
                   planes, behind, sums):  # fmt: skip
    """Take splat `k` of a tile off its pixels, and write its sums over them into its slot."""
    pixels = len(transmittance)
    size = block_width(lanes) * block_height(lanes)
    zero, one = floats(lanes, np.float32(0.0)), floats(lanes, np.float32(1.0))
    a, b, c = splat[QUADRATIC], splat[QUADRATIC + 1], splat[QUADRATIC + 2]
    twice_a, twice_c = np.float32(2.0) * a, np.float32(2.0) * c
    log_opacity = splat[LOG_OPACITY]
    color = broadcast_channels(lanes, splat, CHANNELS, background)
    first_x = max(0, box[BOUNDS] - tile_x) // block_width(lanes)
    last_x = min(blocks_wide - 1, (box[BOUNDS + 1] - tile_x) // block_width(lanes))
    first_y = max(0, box[BOUNDS + 2] - tile_y) // block_height(lanes)
    last_y = min(blocks_high - 1, (box[BOUNDS + 3] - tile_y) // block_height(lanes))
    left = splat[MEAN] - np.float32(tile_x + first_x * block_width(lanes)) - block_columns(lanes)
    top = splat[MEAN + 1] - np.float32(tile_y) - block_rows(lanes)
    order = ints(lanes, np.int32(k))
    m, mx, my, mxx, mxy, myy, abs_x, abs_y = zero, zero, zero, zero, zero, zero, zero, zero
    d_color = zero_channels(lanes, background)
    for block_y in range(first_y, last_y + 1):
        dy = top - np.float32(block_y * block_height(lanes))
        b_dy, twice_c_dy = b * dy, twice_c * dy
        at_row = log_opacity - c * dy * dy
        dx = left
        slot = (block_y * blocks_wide + first_x) * size
        for _ in range(first_x, last_x + 1):
            log_alpha = at_row - dx * (a * dx + b_dy)
            drawn = (log_alpha >= _MIN_LOG_ALPHA) & (load(lanes, end, slot) > order)
            if any_lane(drawn):
                uncut = select(drawn, exp2(minimum(log_alpha, log_opacity)), zero)
                alpha = minimum(uncut, MAX_ALPHA)
                inverse = one / (one - alpha)
                before = load(lanes, transmittance, slot) * inverse
                store(transmittance, slot, before)
                weight = alpha * before
                v = load_channels(lanes, planes, slot, pixels, background)
                value = dot_channels(color, v)
                rest = load(lanes, behind, slot)
                store(behind, slot, rest + weight * value)
                d_color = add_weighted(d_color, weight, v)
                d_alpha = before * value - rest * inverse
                moment = select(uncut <= MAX_ALPHA, alpha * d_alpha, zero)
                moment_x = moment * dx
                m = m + moment
                mx = mx + moment_x
                my = my + moment * dy
                mxx = mxx + moment_x * dx
                mxy = mxy + moment_x * dy
                myy = myy + moment * dy * dy
                abs_x = abs_x + absolute(moment * (twice_a * dx + b_dy))
                abs_y = abs_y + absolute(moment * (b * dx + twice_c_dy))
            slot += size
            dx = dx - np.float32(block_width(lanes))
    sums[0] = sum_lanes(m)
    sums[1] = sum_lanes(mx)
    sums[2] = sum_lanes(my)
    sums[3] = sum_lanes(mxx)
    sums[4] = sum_lanes(mxy)
    sums[5] = sum_lanes(myy)
    sums[6] = sum_lanes(abs_x)
    sums[7] = sum_lanes(abs_y)
    sum_channels(sums, SUMS, d_color)


@kernel
def composite_gradient(counter, lanes, background, tile_size, tiles_wide, tile_order, tile_offsets, splats, slots,
                       records, transmittance, end, needed, d_image, d_alphas, slot_sums):  # fmt: skip
    """Gradient of `composite` for every intersection, into its slot: slot_sums (intersections, 8 + channels)."""
    bounds = records.view(np.int32)
    pixels = tile_size * tile_size
    blocks_wide, blocks_high = tile_size // block_width(lanes), tile_size // block_height(lanes)
    remaining, behind = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    planes = np.empty(len(background) * pixels, np.float32)
    while True:
        turn = claim(counter, 1)
        if turn >= len(tile_order):
            break
        tile = tile_order[turn]
        first, last = tile_offsets[tile], tile_offsets[tile + 1]
        tile_x, tile_y = tile % tiles_wide * tile_size, tile // tiles_wide * tile_size
        for k in range(first + needed[tile], last):
            slot_sums[slots[k]] = np.float32(0.0)
        remaining[:] = transmittance[tile]
        read_tile(
            lanes,
            background,
            tile_x,
            tile_y,
            blocks_wide,
            blocks_high,
            remaining,
            d_image,
            d_alphas,
            planes,
            behind,
        )
        for k in range(needed[tile] - 1, -1, -1):
            splat = splats[first + k]
            splat_gradient(
                lanes, background, k, tile_x, tile_y, blocks_wide, blocks_high, records[splat], bounds[splat],
                remaining, end[tile], planes, behind, slot_sums[slots[first + k]],
            )  # fmt: skip


@kernel
def gather_gradients(counter, gaussians, records, slot_offsets, slot_sums, opacities,
                     d_means2d, d_means2d_abs, d_conics, d_opacities, d_colors):  # fmt: skip
    """Add up the slots of every splat, and turn their moments into gradients of the Gaussian's splat."""
    sums = np.empty(slot_sums.shape[1], np.float32)
    while True:
        start = claim(counter, CHUNK)
        if start >= len(gaussians):
            break
        for i in range(start, min(start + CHUNK, len(gaussians))):
            sums[:] = np.float32(0.0)
            for slot in range(slot_offsets[i], slot_offsets[i + 1]):
                for k in range(len(sums)):
                    sums[k] += slot_sums[slot, k]
            m, mx, my, mxx, mxy, myy, abs_x, abs_y = sums[:SUMS]
            a, b, c = 2.0 / LOG2E * records[i, 2], records[i, 3] / LOG2E, 2.0 / LOG2E * records[i, 4]
            g = gaussians[i]
            d_means2d[g, 0] = -(a * mx + b * my)
            d_means2d[g, 1] = -(b * mx + c * my)
            d_means2d_abs[g, 0] = abs_x / LOG2E
            d_means2d_abs[g, 1] = abs_y / LOG2E
            d_conics[g, 0] = -0.5 * mxx
            d_conics[g, 1] = -mxy
            d_conics[g, 2] = -0.5 * myy
            d_opacities[g] = m / opacities[g]
            for channel in range(d_colors.shape[1]):
                d_colors[g, channel] = sums[SUMS + channel]
