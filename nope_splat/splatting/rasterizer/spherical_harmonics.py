"""View-dependent color from spherical harmonics, and its gradient.

The color of a Gaussian in the view direction d = (mean - camera center) / |mean - camera center| is

    color = max(0, 1/2 + sum over k of Y_k(d) coefficient_k)

with the real spherical harmonics Y_k as polynomials in d = (x, y, z), in the order and with the signs of the
3D Gaussian Splatting paper. Since d has unit length, the radial part of the gradient with respect to d is
removed.
"""

from __future__ import annotations

import math

import numpy as np

from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.threads import CHUNK, claim

MAX_DEGREE = 3

_ZERO, _HALF = np.float32(0.0), np.float32(0.5)

C0 = 0.28209479177387814  # sqrt(1 / (4 pi))
C1 = 0.4886025119029199  # sqrt(3 / (4 pi))
C2 = 1.0925484305920792  # sqrt(15 / (4 pi))
C20 = 0.31539156525252005  # sqrt(5 / (16 pi))
C30 = 0.3731763325901154  # sqrt(7 / (16 pi))
C31 = 0.4570457994644658  # sqrt(21 / (32 pi))
C32 = 2.890611442640554  # sqrt(105 / (4 pi))
C33 = 0.5900435899266435  # sqrt(35 / (32 pi))


@inlined
def evaluate(degree, x, y, z, values):
    """Evaluate the spherical harmonics up to a degree at a unit direction (x, y, z).

    The results are written to `values` ((degree + 1)^2,).
    """
    values[0] = C0
    if degree >= 1:
        values[1] = -C1 * y
        values[2] = C1 * z
        values[3] = -C1 * x
    if degree >= 2:
        values[4] = C2 * x * y
        values[5] = -C2 * y * z
        values[6] = C20 * (3.0 * z * z - 1.0)
        values[7] = -C2 * x * z
        values[8] = 0.5 * C2 * (x * x - y * y)
    if degree >= 3:
        values[9] = -C33 * y * (3.0 * x * x - y * y)
        values[10] = C32 * x * y * z
        values[11] = -C31 * y * (5.0 * z * z - 1.0)
        values[12] = C30 * z * (5.0 * z * z - 3.0)
        values[13] = -C31 * x * (5.0 * z * z - 1.0)
        values[14] = 0.5 * C32 * z * (x * x - y * y)
        values[15] = -C33 * x * (x * x - 3.0 * y * y)


@inlined
def direction_gradient(degree, x, y, z, d):
    """Compute the gradient of the loss with respect to the view direction (x, y, z).

    Returns the x, y and z components of the gradient. `d` ((degree + 1)^2,) is the gradient of the loss with
    respect to the values of the spherical harmonics.
    """
    d_x = d_y = d_z = 0.0
    if degree >= 1:
        d_x = -C1 * d[3]
        d_y = -C1 * d[1]
        d_z = C1 * d[2]
    if degree >= 2:
        d_x += C2 * (y * d[4] - z * d[7] + x * d[8])
        d_y += C2 * (x * d[4] - z * d[5] - y * d[8])
        d_z += C2 * (-y * d[5] - x * d[7]) + 6.0 * C20 * z * d[6]
    if degree >= 3:
        square, minus = 5.0 * z * z - 1.0, x * x - y * y
        d_x += -6.0 * C33 * x * y * d[9] + C32 * (y * z * d[10] + x * z * d[14])
        d_x += -C31 * square * d[13] - 3.0 * C33 * minus * d[15]
        d_y += -3.0 * C33 * minus * d[9] + C32 * (x * z * d[10] - y * z * d[14])
        d_y += -C31 * square * d[11] + 6.0 * C33 * x * y * d[15]
        d_z += C32 * (x * y * d[10] + 0.5 * minus * d[14]) - 10.0 * C31 * z * (y * d[11] + x * d[13])
        d_z += C30 * (15.0 * z * z - 3.0) * d[12]
    return d_x, d_y, d_z


@inlined
def view_direction(means, index, center):
    """Compute the unit direction from the camera center to Gaussian `index`.

    Returns x, y and z of the direction, and the inverse distance in inverse world units.
    """
    x = float(means[index, 0]) - center[0]
    y = float(means[index, 1]) - center[1]
    z = float(means[index, 2]) - center[2]
    inverse = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x * inverse, y * inverse, z * inverse, inverse


@kernel
def shade(counter, degree, means, center, coefficients, radii, colors):
    """Evaluate the RGB colors of all Gaussians in one camera from spherical-harmonics coefficients.

    Writes `colors` (N, 3), given `coefficients` (N, K, 3) and the camera center `center` (3,) in world
    coordinates. Culled Gaussians (radius zero) get color zero.
    """
    terms = (degree + 1) ** 2
    values = np.empty(terms, np.float32)
    while True:
        start = claim(counter, CHUNK)
        if start >= len(means):
            break
        for i in range(start, min(start + CHUNK, len(means))):
            red = green = blue = _ZERO
            if radii[i] > 0:
                x, y, z, _ = view_direction(means, i, center)
                evaluate(degree, x, y, z, values)
                red = green = blue = _HALF
                for k in range(terms):
                    red += values[k] * coefficients[i, k, 0]
                    green += values[k] * coefficients[i, k, 1]
                    blue += values[k] * coefficients[i, k, 2]
            colors[i, 0] = max(red, _ZERO)
            colors[i, 1] = max(green, _ZERO)
            colors[i, 2] = max(blue, _ZERO)


@kernel
def shade_gradient(counter, degree, means, center, coefficients, radii, colors, d_colors, accumulate,
                   d_means, coefficients_need_grad, d_coefficients, d_center):  # fmt: skip
    """Compute the gradient of `shade`.

    Overwrites d_means (N, 3), or adds to d_means if `accumulate` is True. Overwrites d_coefficients (N, K, 3)
    if `coefficients_need_grad` is True. Writes the gradient of the camera center, summed per chunk of
    Gaussians, to d_center (chunks, 3).
    """
    terms = (degree + 1) ** 2
    values, d_values = np.empty(terms, np.float32), np.empty(terms, np.float32)
    d_chunk = np.empty(3)
    while True:
        start = claim(counter, CHUNK)
        if start >= len(means):
            break
        stop = min(start + CHUNK, len(means))
        if not accumulate:
            d_means[start:stop] = np.float32(0.0)
        d_chunk[:] = 0.0
        for i in range(start, stop):
            if coefficients_need_grad:
                for k in range(0 if radii[i] == 0 else terms, d_coefficients.shape[1]):
                    d_coefficients[i, k, 0] = d_coefficients[i, k, 1] = d_coefficients[i, k, 2] = _ZERO
            if radii[i] == 0:
                continue
            red = d_colors[i, 0] if colors[i, 0] > _ZERO else _ZERO
            green = d_colors[i, 1] if colors[i, 1] > _ZERO else _ZERO
            blue = d_colors[i, 2] if colors[i, 2] > _ZERO else _ZERO
            x, y, z, inverse = view_direction(means, i, center)
            evaluate(degree, x, y, z, values)
            if coefficients_need_grad:
                for k in range(terms):
                    d_coefficients[i, k, 0] = values[k] * red
                    d_coefficients[i, k, 1] = values[k] * green
                    d_coefficients[i, k, 2] = values[k] * blue
            for k in range(terms):
                d_values[k] = (
                    coefficients[i, k, 0] * red + coefficients[i, k, 1] * green + coefficients[i, k, 2] * blue
                )
            d_x, d_y, d_z = direction_gradient(degree, x, y, z, d_values)
            along = d_x * x + d_y * y + d_z * z
            d_mean = (d_x - along * x) * inverse, (d_y - along * y) * inverse, (d_z - along * z) * inverse
            for axis in range(3):
                d_means[i, axis] += d_mean[axis]
                d_chunk[axis] -= d_mean[axis]
        d_center[start // CHUNK] = d_chunk
