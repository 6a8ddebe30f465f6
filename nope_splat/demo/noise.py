"""Fractal gradient noise in 3D, which shapes and colors the surfaces of the demo scene."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from nope_splat.utils.jit import cached_njit
from nope_splat.utils.typing import Array

Vector = tuple[float, float, float]
"""Type of the values of the three noise channels."""
Lattice = tuple[NDArray[np.int64], Array]
"""Type of the random gradients of the noise: a permutation of 0 to 255 (256,), and 256 gradient vectors
(x, y, z) for each of three noise channels (256, 3, 3)."""


def make_lattice(rng: np.random.Generator) -> Lattice:
    """Sample the random gradients of the noise.

    Args:
        rng: Random generator.

    Returns:
        Permutation of 0 to 255 (256,), and gradient vectors (x, y, z) of length 1.6 for each of three noise
        channels (256, 3, 3).
    """
    gradients = rng.normal(size=(256, 3, 3))
    gradients *= 1.6 / np.linalg.norm(gradients, axis=-1, keepdims=True)
    return rng.permutation(256), gradients


@cached_njit()
def noise_at(x: float, y: float, z: float, footprint: float, octaves: int, lattice: Lattice) -> Vector:
    """Evaluate three independent channels of gradient noise (Perlin 2002), summed over octaves.

    Each octave has twice the frequency and 0.6 times the amplitude of the previous octave. To avoid aliasing
    on distant surfaces, octaves with a period below four footprints are attenuated, and octaves with a period
    below two footprints are omitted.

    Args:
        x: Coordinate x, in periods of the coarsest octave.
        y: Coordinate y, in periods of the coarsest octave.
        z: Coordinate z, in periods of the coarsest octave.
        footprint: Diameter of the surface area that the sample covers, in periods of the coarsest octave.
        octaves: Number of octaves.
        lattice: Random gradients, from `make_lattice`.

    Returns:
        The three channels, approximately in [-1, 1].
    """
    permutation, gradients = lattice
    red = green = blue = 0.0
    amplitude = 1.0
    for _ in range(octaves):
        visible = 2.0 - 4.0 * footprint
        if visible <= 0.0:
            break
        ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        fx, fy, fz = x - ix, y - iy, z - iz
        sx = fx * fx * fx * (fx * (fx * 6.0 - 15.0) + 10.0)
        sy = fy * fy * fy * (fy * (fy * 6.0 - 15.0) + 10.0)
        sz = fz * fz * fz * (fz * (fz * 6.0 - 15.0) + 10.0)
        for corner in range(8):
            cx, cy, cz = corner & 1, (corner >> 1) & 1, corner >> 2
            cell = permutation[(permutation[(permutation[(ix + cx) & 255] + iy + cy) & 255] + iz + cz) & 255]
            weight = (sx if cx else 1.0 - sx) * (sy if cy else 1.0 - sy) * (sz if cz else 1.0 - sz)
            weight *= amplitude * min(visible, 1.0)
            g, dx, dy, dz = gradients[cell], fx - cx, fy - cy, fz - cz
            red += weight * (g[0, 0] * dx + g[0, 1] * dy + g[0, 2] * dz)
            green += weight * (g[1, 0] * dx + g[1, 1] * dy + g[1, 2] * dz)
            blue += weight * (g[2, 0] * dx + g[2, 1] * dy + g[2, 2] * dz)
        x, y, z = 2.0 * x + 17.3, 2.0 * y + 5.7, 2.0 * z + 29.1
        footprint *= 2.0
        amplitude *= 0.6
    return red, green, blue


@cached_njit(parallel=True)
def noise(points: Array, octaves: int, lattice: Lattice) -> Array:
    """Evaluate three independent channels of fractal noise at points, without attenuating fine octaves.

    Args:
        points: Coordinates in periods of the coarsest octave. (N, 3).
        octaves: Number of octaves.
        lattice: Random gradients, from `make_lattice`.

    Returns:
        Three channels, approximately in [-1, 1]. (N, 3).
    """
    values = np.empty_like(points)
    for n in numba.prange(len(points)):
        x, y, z = points[n]
        values[n] = noise_at(x, y, z, 0.0, octaves, lattice)
    return values
