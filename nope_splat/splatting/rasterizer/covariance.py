"""Rotations of Gaussians, covariances of their splats, and the gradients of both.

The module `projection` defines the symbols.
"""

from __future__ import annotations

import math

from nope_splat.splatting.rasterizer.kernels import inlined
from nope_splat.splatting.rasterizer.vectors import dot


@inlined
def quaternion(quats, index):
    """Return w, x, y and z of row `index` of `quats` (N, 4), and the inverse of the row's squared norm.

    The quaternions need not be normalized. The inverse is at most 1e24, also for a zero quaternion.
    """
    w, x, y, z = (
        float(quats[index, 0]),
        float(quats[index, 1]),
        float(quats[index, 2]),
        float(quats[index, 3]),
    )
    return w, x, y, z, 1.0 / max(w * w + x * x + y * y + z * z, 1e-24)


@inlined
def rotation(quats, index):
    """Compute the rotation matrix, as three rows, of the quaternion in row `index` of `quats` (N, 4).

    The quaternion need not be normalized. A zero quaternion gives the identity.
    """
    w, x, y, z, inverse = quaternion(quats, index)
    s = 2.0 * inverse
    return (
        (1.0 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)),
        (s * (x * y + w * z), 1.0 - s * (x * x + z * z), s * (y * z - w * x)),
        (s * (x * z - w * y), s * (y * z + w * x), 1.0 - s * (x * x + y * y)),
    )


@inlined
def covariance_2d(m0, m1):
    """Compute the entries xx, xy, yy and the determinant of the covariance M M^T.

    m0 and m1 are the rows of M (2, 3). The determinant is a sum of squares and therefore never negative.
    """
    minor0 = m0[1] * m1[2] - m0[2] * m1[1]
    minor1 = m0[2] * m1[0] - m0[0] * m1[2]
    minor2 = m0[0] * m1[1] - m0[1] * m1[0]
    return dot(m0, m0), dot(m0, m1), dot(m1, m1), minor0 * minor0 + minor1 * minor1 + minor2 * minor2


@inlined
def covariance_gradient(splat, eps2d, d_conic, d_compensation):
    """Compute gradients of the covariance entries xx, xy, yy from the gradients of conic and compensation.

    Let Q be the conic matrix [[a, b], [b, c]] and rho the opacity compensation. The gradient G of Q has half
    of the gradient of b in each off-diagonal entry. The covariance gradient has two terms: -Q G Q, and
    d_compensation times the derivative of rho, ((1 - rho^2) Q - eps2d det(Q) I) / (2 rho), where 1 / rho is
    bounded as in gsplat. The returned gradient of xy is the sum of both off-diagonal entries.
    """
    xx, xy, yy, det = covariance_2d(splat.m0, splat.m1)
    inverse_det = 1.0 / (det + eps2d * (xx + yy + eps2d))
    a, b, c = (yy + eps2d) * inverse_det, -xy * inverse_det, (xx + eps2d) * inverse_det
    g00, g01, g11 = d_conic[0], 0.5 * d_conic[1], d_conic[2]
    h00, h01 = a * g00 + b * g01, a * g01 + b * g11
    h10, h11 = b * g00 + c * g01, b * g01 + c * g11
    squared = det * inverse_det
    factor = d_compensation * 0.5 / (math.sqrt(squared) + 1e-6)
    d_xx = -(h00 * a + h01 * b) + factor * ((1.0 - squared) * a - eps2d * inverse_det)
    d_xy = -2.0 * (h00 * b + h01 * c) + 2.0 * factor * (1.0 - squared) * b
    d_yy = -(h10 * b + h11 * c) + factor * ((1.0 - squared) * c - eps2d * inverse_det)
    return d_xx, d_xy, d_yy


@inlined
def quaternion_gradient(quats, index, r0, r1, r2):
    """Compute the gradient of a quaternion, as w, x, y and z, from the gradient of its rotation matrix.

    The quaternion is row `index` of `quats` (N, 4) and need not be normalized. r0, r1 and r2 are the rows of
    the gradient of the rotation matrix.
    """
    w, x, y, z, inverse = quaternion(quats, index)
    d_w = x * (r2[1] - r1[2]) + y * (r0[2] - r2[0]) + z * (r1[0] - r0[1])
    d_x = -2.0 * x * (r1[1] + r2[2]) + y * (r0[1] + r1[0]) + z * (r0[2] + r2[0]) + w * (r2[1] - r1[2])
    d_y = x * (r0[1] + r1[0]) - 2.0 * y * (r0[0] + r2[2]) + z * (r1[2] + r2[1]) + w * (r0[2] - r2[0])
    d_z = x * (r0[2] + r2[0]) + y * (r1[2] + r2[1]) - 2.0 * z * (r0[0] + r1[1]) + w * (r1[0] - r0[1])
    # Scaling the quaternion does not change the rotation, so remove the gradient's radial part.
    along = (d_w * w + d_x * x + d_y * y + d_z * z) * inverse
    s = 2.0 * inverse
    return s * (d_w - along * w), s * (d_x - along * x), s * (d_y - along * y), s * (d_z - along * z)
