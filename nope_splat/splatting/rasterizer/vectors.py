"""Operations on 3D vectors, which are tuples of floats that the kernels hold in registers."""

from __future__ import annotations

import numpy as np

from nope_splat.splatting.rasterizer.kernels import inlined

Vector3 = tuple[float, float, float]


@inlined
def vector3(array, index):
    """Return the first three elements of row `index` of an array (N, at least 3), in its precision."""
    return float(array[index, 0]), float(array[index, 1]), float(array[index, 2])


@inlined
def in_float64(a):
    """Convert a 3D vector to float64. `float` does not, because in compiled code it keeps float32."""
    return np.float64(a[0]), np.float64(a[1]), np.float64(a[2])


@inlined
def dot(p, q):
    """Compute the dot product of two 3D vectors."""
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@inlined
def linear_combination(p, a, q, b):
    """Compute the linear combination p a + q b of two 3D vectors a and b."""
    return p * a[0] + q * b[0], p * a[1] + q * b[1], p * a[2] + q * b[2]


@inlined
def row_times_matrix(p, r0, r1, r2):
    """Multiply a row vector p (3) by the 3 x 3 matrix with rows r0, r1 and r2."""
    return (
        p[0] * r0[0] + p[1] * r1[0] + p[2] * r2[0],
        p[0] * r0[1] + p[1] * r1[1] + p[2] * r2[1],
        p[0] * r0[2] + p[1] * r1[2] + p[2] * r2[2],
    )


@inlined
def scale_vector(p, a):
    """Multiply a 3D vector a by a scalar p."""
    return p * a[0], p * a[1], p * a[2]


@inlined
def elementwise_product(p, s):
    """Multiply two 3D vectors elementwise."""
    return p[0] * s[0], p[1] * s[1], p[2] * s[2]
