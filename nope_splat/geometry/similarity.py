"""Similarity transforms (scale, rotation and translation) between two coordinate frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.rigid import nearest_rotation
from nope_splat.utils.typing import Array, Indices

MIN_SCALE = 1e-9
"""Lower limit of the scale of a fitted similarity, which keeps the scale positive for wrong point pairs."""


@dataclass(frozen=True)
class Similarity:
    """Similarity transform of 3D points: x -> scale * rotation @ x + translation."""

    scale: float
    """Scale factor; always positive."""
    rotation: Array
    """Rotation matrix with determinant one. (3, 3)."""
    translation: Array
    """Translation, applied after rotation and scaling. (3,)."""

    def apply(self, points: Array) -> Array:
        """Apply the similarity transform to points. (..., 3) -> (..., 3)."""
        return self.scale * points @ self.rotation.T + self.translation

    def apply_to_poses(self, T_world_camera: Array) -> Array:
        """Apply the similarity transform to camera-to-world poses. (..., 4, 4) -> (..., 4, 4).

        Camera centers are scaled, rotated and translated; orientations are only rotated.
        """
        transformed = T_world_camera.copy()
        transformed[..., :3, :3] = self.rotation @ T_world_camera[..., :3, :3]
        transformed[..., :3, 3] = self.apply(T_world_camera[..., :3, 3])
        return transformed


def align_similarity(source: Array, target: Array) -> Similarity:
    """Find the similarity transform that minimizes the sum of squared distances of corresponding points.

    Args:
        source: Points to transform. (n, 3).
        target: Points at which the transformed source points should lie, in the same order. (n, 3).

    Returns:
        The transform from source to target coordinates.

    Example:
        >>> source = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> target = 2.0 * source + np.array([1.0, 2.0, 3.0])
        >>> similarity = align_similarity(source, target)
        >>> print(f"{similarity.scale:.3f}", similarity.apply(np.array([1.0, 1.0, 1.0])).round(3))
        2.000 [3. 4. 5.]
    """
    group = np.zeros(len(source), np.int64)
    scales, rotations, translations = align_groups(source, target, np.ones(len(source)), group, 1)
    return Similarity(float(scales[0]), rotations[0], translations[0])


def align_groups(
    source: Array, target: Array, weight: Array, group: Indices, num_groups: int, *, with_scale: bool = True
) -> tuple[Array, Array, Array]:
    """Find the weighted least-squares similarity or rigid transform of each group of point pairs.

    In each group, let a and b be the source and target points minus their weighted means, and w the weights.
    The rotation R maximizes trace(R^T C), where C is the sum of w b a^T. The scale is this maximum divided by
    the sum of w |a|^2 (Umeyama, PAMI 1991).

    Args:
        source: Points to transform. (n, 3).
        target: Points at which the transformed source points should lie, in the same order. (n, 3).
        weight: Weight of the squared distance of each point pair. (n,).
        group: Group index of each point pair, from 0 to G - 1. (n,).
        num_groups: Number of groups G; groups without points get the identity.
        with_scale: Whether to fit the scale; if False, all scales are one.

    Returns:
        Scales (G,), rotations (G, 3, 3) and translations (G, 3).
    """
    total = np.maximum(np.bincount(group, weight, num_groups), 1e-300)[:, None]
    source_mean = sum_rows(source * weight[:, None], group, num_groups) / total
    target_mean = sum_rows(target * weight[:, None], group, num_groups) / total
    a, b = source - source_mean[group], target - target_mean[group]
    products = (weight[:, None, None] * b[:, :, None] * a[:, None, :]).reshape(-1, 9)
    covariance = sum_rows(products, group, num_groups).reshape(num_groups, 3, 3)
    rotation = nearest_rotation(covariance)
    scale = np.ones(num_groups)
    if with_scale:
        variance = np.bincount(group, weight * (a**2).sum(1), num_groups)
        fitted = (rotation * covariance).sum((1, 2)) / np.maximum(variance, 1e-300)
        scale = np.where(variance > 0, np.maximum(fitted, MIN_SCALE), 1.0)
    translation = target_mean - scale[:, None] * np.einsum("nij,nj->ni", rotation, source_mean)
    return scale, rotation, translation


def sum_rows(values: Array, index: Indices, num_rows: int) -> Array:
    """Sum all rows of an array that have the same index. (n, k), (n,) -> (num_rows, k)."""
    return np.stack([np.bincount(index, column, num_rows) for column in values.T], axis=1).astype(np.float64)
