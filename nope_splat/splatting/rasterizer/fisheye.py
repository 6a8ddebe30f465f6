"""Equidistant fisheye projection of a Gaussian, and its gradient.

The distance of a pixel from the principal point is proportional to the angle theta between the view direction
and the optical axis. With r = |(X, Y)| and w = X^2 + Y^2 + Z^2,

    theta  = atan2(r, Z)
    g      = theta / r
    mean2d = (fx g X + cx, fy g Y + cy)

The derivatives of theta are Z/w by r and -r/w by Z, so that g has the derivatives

    dg/dX = h X,  dg/dY = h Y,  dg/dZ = -1/w        with h = (Z/w - g) / r^2

and the Jacobian of the projection is

    J = diag(fx, fy) [[g + h X^2, h X Y, -X/w], [h X Y, g + h Y^2, -Y/w]] = diag(fx, fy) [j0; j1]

J is not clamped as for pinhole cameras: its norm is at most max(fx, fy) theta/r, which in front of the camera
is below pi/2 max(fx, fy) divided by the distance of the mean, however far it is from the image.

For the gradient, d(...) denotes the derivative of the loss with respect to the quantity in parentheses.
Differentiating h gives

    dh/dX = k X,  dh/dY = k Y,  dh/dZ = 2/w^2       with k = -(2 Z/w^2 + 3 h) / r^2

With D = [d(j0); d(j1)] (2, 3), the loss depends on the mean through j0 and j1 as g T + h P - Q/w, where

    T = D00 + D11,  P = X^2 D00 + X Y (D01 + D10) + Y^2 D11,  Q = X D02 + Y D12

    d(X) = X (h T + k P) + h (2 X D00 + Y (D01 + D10)) - D02/w + 2 X Q/w^2
    d(Y) = Y (h T + k P) + h (2 Y D11 + X (D01 + D10)) - D12/w + 2 Y Q/w^2
    d(Z) = -T/w + 2 P/w^2 + 2 Z Q/w^2

and through mean2d, which adds J^T d(mean2d). J is linear in fx and fy, like mean2d - (cx, cy).

Close to the optical axis, differences in h and k cancel and r vanishes. There, with q = (r/Z)^2, the Taylor
series of the arctangent gives

    g =  1/Z   (1 - q/3 + q^2/5 - ...)              terms (-q)^i / (2i+1)
    h = -1/Z^3 (2/3 - 4/5 q + 6/7 q^2 - ...)        terms (-q)^i (2i+2) / (2i+3)
    k =  1/Z^5 (8/5 - 24/7 q + 48/9 q^2 - ...)      terms (-q)^i (2i+2) (2i+4) / (2i+5)

The module `projection` defines the other symbols. Kannala and Brandt (2006) call this projection equidistance
projection; OpenCV's fisheye model is the same with distortion coefficients of zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nope_splat.splatting.rasterizer.covariance import rotation
from nope_splat.splatting.rasterizer.kernels import inlined
from nope_splat.splatting.rasterizer.vectors import (
    Vector3,
    dot,
    elementwise_product,
    in_float64,
    row_times_matrix,
    scale_vector,
    vector3,
)

SERIES_LIMIT = 0.01
"""Largest (r/Z)^2 for which the series are used. With eight terms, their relative error is below 1e-14 there,
while cancellation makes k inaccurate by 1e-11."""
SERIES_G = tuple(1 / (2 * i + 1) for i in range(8))
SERIES_H = tuple(-(2 * i + 2) / (2 * i + 3) for i in range(8))
SERIES_K = tuple((2 * i + 2) * (2 * i + 4) / (2 * i + 5) for i in range(8))


class Camera(NamedTuple):
    """Equidistant fisheye camera for the projection of Gaussians.

    Attributes:
        v0: First row of the 3 x 3 part of the world-to-camera transform.
        v1: Second row.
        v2: Third row.
        t: Translation of the world-to-camera transform.
        fx: Focal length along x in pixels per radian.
        fy: Focal length along y in pixels per radian.
        cx: Principal point, x in pixels.
        cy: Principal point, y in pixels.
    """

    v0: Vector3
    v1: Vector3
    v2: Vector3
    t: Vector3
    fx: float
    fy: float
    cx: float
    cy: float


class Splat(NamedTuple):
    """Intermediate results of the projection of a Gaussian.

    Attributes:
        point: Mean in camera coordinates (X, Y, Z).
        g: theta / r.
        h: Derivative of g by r, divided by r.
        k: Derivative of h by r, divided by r.
        inverse_w: 1 / (X^2 + Y^2 + Z^2).
        j0: First row of the Jacobian of the projection without focal length.
        j1: Second row.
        r0: First row of the Gaussian's rotation matrix R.
        r1: Second row of R.
        r2: Third row of R.
        n0: First row of N = J V R (2, 3), where J is the Jacobian of the projection, and V the 3 x 3 part of
            the world-to-camera transform.
        n1: Second row of N.
        m0: First row of M = N S (2, 3), where S is the diagonal matrix of the Gaussian's scales. The
            covariance in the image is M M^T.
        m1: Second row of M.
    """

    point: Vector3
    g: float
    h: float
    k: float
    inverse_w: float
    j0: Vector3
    j1: Vector3
    r0: Vector3
    r1: Vector3
    r2: Vector3
    n0: Vector3
    n1: Vector3
    m0: Vector3
    m1: Vector3


@inlined
def alternating_series(coefficients, q):
    """Evaluate the sum of coefficients[i] (-q)^i."""
    total = 0.0
    for i in range(len(coefficients)):
        total = coefficients[len(coefficients) - 1 - i] - q * total
    return total


@inlined
def angle_ratio(x, y, z):
    """Compute g, h, k and 1/w at a point (X, Y, Z) with Z > 0."""
    squared = x * x + y * y
    inverse_w = 1.0 / (squared + z * z)
    if squared <= SERIES_LIMIT * z * z:
        inverse_z = 1.0 / z
        inverse_z2 = inverse_z * inverse_z
        q = squared * inverse_z2
        g = inverse_z * alternating_series(SERIES_G, q)
        h = inverse_z * inverse_z2 * alternating_series(SERIES_H, q)
        k = inverse_z * inverse_z2 * inverse_z2 * alternating_series(SERIES_K, q)
    else:
        r = math.sqrt(squared)
        inverse_squared = 1.0 / squared
        g = math.atan2(r, z) / r
        h = (z * inverse_w - g) * inverse_squared
        k = -(2.0 * z * inverse_w * inverse_w + 3.0 * h) * inverse_squared
    return g, h, k, inverse_w


@inlined
def make_camera(viewmat, K, width, height):
    """Create a `Camera` from a view matrix (4, 4) and intrinsics (3, 3). The image size is not used.

    The camera is in float64, because differences in h and k lose digits.
    """
    return Camera(
        in_float64(vector3(viewmat, 0)),
        in_float64(vector3(viewmat, 1)),
        in_float64(vector3(viewmat, 2)),
        in_float64((viewmat[0, 3], viewmat[1, 3], viewmat[2, 3])),
        np.float64(K[0, 0]),
        np.float64(K[1, 1]),
        np.float64(K[0, 2]),
        np.float64(K[1, 2]),
    )


@inlined
def project_gaussian(camera, mean, quats, scale, index):
    """Project a Gaussian to a `Splat`. The Gaussian must lie in front of the camera.

    `mean` and `scale` have three elements each; `index` is the row of the Gaussian in `quats` (N, 4).
    """
    x = dot(camera.v0, mean) + camera.t[0]
    y = dot(camera.v1, mean) + camera.t[1]
    z = dot(camera.v2, mean) + camera.t[2]
    g, h, k, inverse_w = angle_ratio(x, y, z)
    j0 = g + h * x * x, h * x * y, -x * inverse_w
    j1 = h * x * y, g + h * y * y, -y * inverse_w
    r0, r1, r2 = rotation(quats, index)
    n0 = row_times_matrix(
        scale_vector(camera.fx, row_times_matrix(j0, camera.v0, camera.v1, camera.v2)), r0, r1, r2
    )
    n1 = row_times_matrix(
        scale_vector(camera.fy, row_times_matrix(j1, camera.v0, camera.v1, camera.v2)), r0, r1, r2
    )
    m0, m1 = elementwise_product(n0, scale), elementwise_product(n1, scale)
    return Splat((x, y, z), g, h, k, inverse_w, j0, j1, r0, r1, r2, n0, n1, m0, m1)


@inlined
def center(camera, splat):
    """Compute the center of a splat in pixels, x and y."""
    return (
        camera.fx * splat.g * splat.point[0] + camera.cx,
        camera.fy * splat.g * splat.point[1] + camera.cy,
    )


@inlined
def factored_rows(camera, splat):
    """Factor the two rows of J V into scalars and vectors: fx, j0 V, fy and j1 V."""
    return (
        camera.fx,
        row_times_matrix(splat.j0, camera.v0, camera.v1, camera.v2),
        camera.fy,
        row_times_matrix(splat.j1, camera.v0, camera.v1, camera.v2),
    )


@inlined
def mean_gradient(camera, splat, d_px, d_py, d_depth, d_jv0, d_jv1):
    """Compute the gradients of the mean in camera coordinates (3) and of the intrinsics fx, fy, cx and cy.

    `d_px` and `d_py` are the gradients of the splat's center, `d_depth` that of its depth, and `d_jv0` and
    `d_jv1` those of the rows of J V.
    """
    x, y, z = splat.point
    fx, row0, fy, row1 = factored_rows(camera, splat)
    d_fx = d_px * splat.g * x + dot(d_jv0, row0)
    d_fy = d_py * splat.g * y + dot(d_jv1, row1)
    d00, d01, d02 = fx * dot(d_jv0, camera.v0), fx * dot(d_jv0, camera.v1), fx * dot(d_jv0, camera.v2)
    d10, d11, d12 = fy * dot(d_jv1, camera.v0), fy * dot(d_jv1, camera.v1), fy * dot(d_jv1, camera.v2)
    h, w1, w2 = splat.h, splat.inverse_w, splat.inverse_w * splat.inverse_w
    mixed, trace = d01 + d10, d00 + d11  # T is the trace
    quadratic = x * x * d00 + x * y * mixed + y * y * d11  # P
    radial = h * trace + splat.k * quadratic
    along = 2.0 * w2 * (x * d02 + y * d12)  # 2 Q / w^2
    d_u, d_v = d_px * fx, d_py * fy
    j0, j1 = splat.j0, splat.j1
    d_point = (
        d_u * j0[0] + d_v * j1[0] + x * radial + h * (2.0 * x * d00 + y * mixed) - d02 * w1 + x * along,
        d_u * j0[1] + d_v * j1[1] + y * radial + h * (2.0 * y * d11 + x * mixed) - d12 * w1 + y * along,
        d_depth + d_u * j0[2] + d_v * j1[2] - trace * w1 + 2.0 * quadratic * w2 + z * along,
    )
    return d_point, (d_fx, d_fy, np.float64(d_px), np.float64(d_py))


@inlined
def add_view_gradient(camera, splat, d_point, mean, d_jv0, d_jv1, sums):
    """Add the gradient of V to elements 0-2, 4-6 and 8-10 of `sums`: d_point mean^T + J^T d_jv.

    `d_point` is the gradient of the mean in camera coordinates, and `mean` the mean in world coordinates.
    """
    j0, j1 = scale_vector(camera.fx, splat.j0), scale_vector(camera.fy, splat.j1)
    for row in range(3):
        for k in range(3):
            sums[4 * row + k] += d_point[row] * mean[k] + j0[row] * d_jv0[k] + j1[row] * d_jv1[k]
