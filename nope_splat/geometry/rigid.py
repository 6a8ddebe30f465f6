"""Rigid transforms (SE(3)) and rotation vectors, for NumPy arrays and PyTorch tensors.

The direction of a rotation vector omega is the rotation axis, and its length is the angle in radians.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from nope_splat.utils.arrays import AnyArray, namespace
from nope_splat.utils.typing import Array


def rotate(matrices: AnyArray, vectors: AnyArray) -> AnyArray:
    """Multiply vectors by matrices. (..., n, n), (..., n) -> (..., n)."""
    return namespace(vectors).einsum("...ij,...j->...i", matrices, vectors)


def transform(transforms: AnyArray, points: AnyArray) -> AnyArray:
    """Apply rigid transforms to points. (..., 4, 4), (..., 3) -> (..., 3)."""
    return rotate(transforms[..., :3, :3], points) + transforms[..., :3, 3]


def invert(transforms: AnyArray) -> AnyArray:
    """Invert rigid transforms. (..., 4, 4) -> (..., 4, 4)."""
    xp = namespace(transforms)
    inverse = xp.zeros_like(transforms)
    inverse[..., :3, :3] = xp.swapaxes(transforms[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -xp.einsum("...ji,...j->...i", transforms[..., :3, :3], transforms[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def rigid(rotation: AnyArray, translation: AnyArray) -> AnyArray:
    """Build rigid transforms from rotations and translations. (..., 3, 3), (..., 3) -> (..., 4, 4)."""
    shape = (*rotation.shape[:-2], 4, 4)
    out: Any = rotation.new_zeros(shape) if isinstance(rotation, Tensor) else np.zeros(shape, rotation.dtype)
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = rotation, translation, 1
    return out


def skew(vectors: AnyArray) -> AnyArray:
    """Build the cross-product matrices [v]x, defined by [v]x u = v x u. (..., 3) -> (..., 3, 3)."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    xp = namespace(vectors)
    zero = xp.zeros_like(x)
    return xp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape, 3)


def rotation_exp(vectors: AnyArray) -> AnyArray:
    """Convert rotation vectors to rotation matrices (exponential map of SO(3)). (..., 3) -> (..., 3, 3)."""
    if isinstance(vectors, Tensor):
        return torch.linalg.matrix_exp(skew(vectors))
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)


def rotation_log(rotations: AnyArray) -> AnyArray:
    """Convert rotation matrices to rotation vectors. (..., 3, 3) -> (..., 3).

    For PyTorch tensors, the result is accurate only if the rotation angles are well below pi radians.
    """
    if not isinstance(rotations, Tensor):
        return Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(rotations.shape[:-1])
    R = rotations
    twice = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    axis = torch.stack(twice, -1) / 2
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (R.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2)
    return axis * torch.where(sine > 1e-9, angle / sine.clamp(min=1e-12), 1.0)


def left_jacobian(vectors: Tensor) -> Tensor:
    """Compute the left Jacobian V of SO(3).

    The exponential of a twist (omega, nu) has the rotation exp([omega]x) and the translation V nu. V is the
    integral of exp(s [omega]x) over s from 0 to 1. It is computed as a block of the exponential of a 6 x 6
    matrix (Van Loan 1978).

    Args:
        vectors: Rotation vectors omega. (N, 3).

    Returns:
        The matrices V. (N, 3, 3).
    """
    generator = vectors.new_zeros(len(vectors), 6, 6)
    generator[:, :3, :3] = skew(vectors)
    generator[:, :3, 3:] = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return torch.linalg.matrix_exp(generator)[:, :3, 3:]


def move_poses(T_camera_world: AnyArray, increments: AnyArray) -> AnyArray:
    """Apply pose increments from the left.

    A transform with rotation R and translation t gets the rotation exp([omega]x) R and the translation
    exp([omega]x) t + nu.

    Args:
        T_camera_world: World-to-camera transforms. (..., 4, 4).
        increments: Rotation vectors omega in radians (first three entries), then translations nu. (..., 6).

    Returns:
        New world-to-camera transforms. (..., 4, 4).
    """
    return rigid(rotation_exp(increments[..., :3]), increments[..., 3:]) @ T_camera_world


def nearest_rotation(matrices: Array) -> Array:
    """Find the rotation R nearest to each matrix M (orthogonal Procrustes problem).

    R maximizes trace(R^T M). To fit b_i = R a_i to point pairs, pass the sum of b_i a_i^T as M.

    Args:
        matrices: Matrices M. (..., 3, 3).

    Returns:
        Rotation matrices with determinant one. (..., 3, 3).
    """
    left, _, right = np.linalg.svd(matrices)
    signs = np.ones(matrices.shape[:-1])
    signs[..., 2] = np.sign(np.linalg.det(left @ right))
    return left * signs[..., None, :] @ right


def rotation_angle(rotation: Array) -> float:
    """Compute the angle of a rotation.

    Args:
        rotation: Rotation matrix. (3, 3).

    Returns:
        Angle in degrees, from 0 to 180.
    """
    return float(rotation_angles(rotation))


def rotation_angles(rotations: Array) -> Array:
    """Compute the angles of rotations, in degrees, from 0 to 180. (..., 3, 3) -> (...)."""
    return np.degrees(np.arccos(np.clip((np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2, -1, 1)))
