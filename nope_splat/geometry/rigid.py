"""Rigid motions as 4 x 4 matrices."""

from __future__ import annotations

import numpy as np

from nope_splat.utils.typing import Array


def transform(transforms: Array, points: Array) -> Array:
    """Apply rigid transforms to points. (..., 4, 4), (..., 3) -> (..., 3)."""
    return np.einsum("...ij,...j->...i", transforms[..., :3, :3], points) + transforms[..., :3, 3]


def invert(transforms: Array) -> Array:
    """Inverse of rigid transforms. (..., 4, 4) -> (..., 4, 4)."""
    inverse = np.zeros_like(transforms)
    inverse[..., :3, :3] = np.swapaxes(transforms[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -np.einsum("...ji,...j->...i", transforms[..., :3, :3], transforms[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def rigid(rotation: Array, translation: Array) -> Array:
    """Rigid transform from its parts. (3, 3), (3,) -> (4, 4)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out
