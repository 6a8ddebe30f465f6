"""Plain CPU rasterizer as a baseline: scalar numba code that processes one pixel at a time.

The baseline composites the same splats as `nope_splat.splatting.rasterizer`, with the standard algorithm.
Each tile of 16 x 16 pixels has a list of the splats whose bounding boxes overlap the tile, front to back. The
backward pass iterates over the list back to front.
"""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, njit, prange

TILE = 16
MIN_ALPHA = np.float32(1 / 255)


@njit(cache=True, nogil=True)
def bin_splats(means2d, conics, opacities, radii, order, width, height):
    """Build the lists of splats per tile, front to back.

    Returns the start of each tile's list (tiles + 1,), and the concatenated lists of splat indices
    (intersections,).
    """
    wide, high = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    boxes = np.zeros((len(order), 4), np.int64)
    counts = np.zeros(wide * high + 1, np.int64)
    for i in order:
        if radii[i] == 0 or opacities[i] < MIN_ALPHA:
            continue
        a, b, c = conics[i]
        reach = 2.0 * math.log(255.0 * opacities[i]) / (a * c - b * b)
        x, y = means2d[i]
        dx, dy = math.sqrt(reach * c), math.sqrt(reach * a)
        boxes[i, 0] = max(0, math.floor((x - dx) / TILE))
        boxes[i, 1] = min(wide, math.floor((x + dx) / TILE) + 1)
        boxes[i, 2] = max(0, math.floor((y - dy) / TILE))
        boxes[i, 3] = min(high, math.floor((y + dy) / TILE) + 1)
        for row in range(boxes[i, 2], boxes[i, 3]):
            for column in range(boxes[i, 0], boxes[i, 1]):
                counts[row * wide + column + 1] += 1
    offsets = np.cumsum(counts)
    ends = offsets.copy()
    splats = np.empty(offsets[-1], np.int64)
    for i in order:
        for row in range(boxes[i, 2], boxes[i, 3]):
            for column in range(boxes[i, 0], boxes[i, 1]):
                splats[ends[row * wide + column]] = i
                ends[row * wide + column] += 1
    return offsets, splats


@njit(cache=True, nogil=True)
def alpha_of(x, y, mean, conic, opacity):
    """Compute the alpha of a splat at a pixel center (x, y), and the offset (dx, dy) to the mean."""
    dx, dy = mean[0] - x, mean[1] - y
    sigma = np.float32(0.5) * (conic[0] * dx * dx + conic[2] * dy * dy) + conic[1] * dx * dy
    if sigma > np.float32(5.6):  # above ln 255, the splat is invisible for any opacity
        return np.float32(0.0), dx, dy
    return min(np.float32(0.999), opacity * math.exp(-sigma)), dx, dy


@njit(cache=True, nogil=True, parallel=True)
def forward(offsets, splats, means2d, conics, opacities, colors, width, height):
    """Composite the splats of all tiles.

    Returns the image (H, W, 3), the remaining transmittance (H, W), and for each pixel the position after its
    last splat in the concatenated lists (H, W).
    """
    wide = (width + TILE - 1) // TILE
    image = np.empty((height, width, 3), np.float32)
    rest, last = np.empty((height, width), np.float32), np.empty((height, width), np.int64)
    for tile in prange(len(offsets) - 1):
        left, top = tile % wide * TILE, tile // wide * TILE
        for y in range(top, min(top + TILE, height)):
            for x in range(left, min(left + TILE, width)):
                transmittance = np.float32(1.0)
                red = green = blue = np.float32(0.0)
                k = offsets[tile]
                while k < offsets[tile + 1]:
                    i = splats[k]
                    alpha, _, _ = alpha_of(
                        x + np.float32(0.5), y + np.float32(0.5), means2d[i], conics[i], opacities[i]
                    )
                    if alpha >= MIN_ALPHA:
                        after = transmittance * (np.float32(1.0) - alpha)
                        if after <= np.float32(1e-4):
                            break
                        weight = alpha * transmittance
                        red += weight * colors[i, 0]
                        green += weight * colors[i, 1]
                        blue += weight * colors[i, 2]
                        transmittance = after
                    k += 1
                image[y, x, 0], image[y, x, 1], image[y, x, 2] = red, green, blue
                rest[y, x], last[y, x] = transmittance, k
    return image, rest, last


@njit(cache=True, nogil=True, parallel=True)
def backward(offsets, splats, means2d, conics, opacities, colors, rest, last, d_image, parts):
    """Compute the gradients of mean (2), conic (3), opacity (1) and color (3) of every splat. (N, 9).

    Each of `parts` threads sums the gradients of a share of the tiles in its own array.
    """
    height, width = rest.shape
    wide = (width + TILE - 1) // TILE
    gradients = np.zeros((parts, len(means2d), 9), np.float32)
    for part in prange(parts):
        out = gradients[part]
        for tile in range(part, len(offsets) - 1, parts):
            left, top = tile % wide * TILE, tile // wide * TILE
            for y in range(top, min(top + TILE, height)):
                for x in range(left, min(left + TILE, width)):
                    transmittance, behind, v = rest[y, x], np.float32(0.0), d_image[y, x]
                    for k in range(last[y, x] - 1, offsets[tile] - 1, -1):
                        i = splats[k]
                        alpha, dx, dy = alpha_of(
                            x + np.float32(0.5), y + np.float32(0.5), means2d[i], conics[i], opacities[i]
                        )
                        if alpha < MIN_ALPHA:
                            continue
                        transmittance /= np.float32(1.0) - alpha
                        value = colors[i, 0] * v[0] + colors[i, 1] * v[1] + colors[i, 2] * v[2]
                        weight = alpha * transmittance
                        d_alpha = transmittance * (value - behind)
                        behind += alpha * (value - behind)
                        for channel in range(3):
                            out[i, 6 + channel] += weight * v[channel]
                        if alpha < np.float32(0.999):
                            d_sigma = -alpha * d_alpha
                            out[i, 0] += d_sigma * (conics[i, 0] * dx + conics[i, 1] * dy)
                            out[i, 1] += d_sigma * (conics[i, 1] * dx + conics[i, 2] * dy)
                            out[i, 2] += np.float32(0.5) * d_sigma * dx * dx
                            out[i, 3] += d_sigma * dx * dy
                            out[i, 4] += np.float32(0.5) * d_sigma * dy * dy
                            out[i, 5] += d_alpha * alpha / opacities[i]
    return gradients.sum(0)


def rasterize(radii, means2d, conics, opacities, depths, colors, width, height):
    """Render an image, and return it with a function for its gradient.

    The function takes the gradient of the image (H, W, 3) and returns the gradients of the splats (N, 9).
    """
    order = np.argsort(depths, kind="stable")
    offsets, splats = bin_splats(means2d, conics, opacities, radii, order, width, height)
    image, rest, last = forward(offsets, splats, means2d, conics, opacities, colors, width, height)

    def gradient(d_image):
        return backward(
            offsets, splats, means2d, conics, opacities, colors, rest, last, d_image, get_num_threads()
        )

    return image, gradient
