"""Similarity transforms between two frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class Similarity:
    """The map x -> scale * rotation @ x + translation."""

    scale: float
    """Positive factor."""
    rotation: Array
    """Proper rotation. (3, 3)."""
    translation: Array
    """Shift after rotation and scaling. (3,)."""

    def apply(self, points: Array) -> Array:
        """Map points. (..., 3) -> (..., 3)."""
        return self.scale * points @ self.rotation.T + self.translation

    def apply_to_poses(self, T_world_camera: Array) -> Array:
        """Map camera-to-world transforms: their centers and their orientation. (..., 4, 4) -> (..., 4, 4)."""
        mapped = T_world_camera.copy()
        mapped[..., :3, :3] = self.rotation @ T_world_camera[..., :3, :3]
        mapped[..., :3, 3] = self.apply(T_world_camera[..., :3, 3])
        return mapped


def align_similarity(source: Array, target: Array) -> Similarity:
    """Similarity that brings points nearest to others, in least squares (Umeyama, PAMI 1991).

    Args:
        source: Points to be mapped. (n, 3).
        target: Where they should come. (n, 3).

    Returns:
        The similarity.

    Example:
        >>> source = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> target = 2.0 * source + np.array([1.0, 2.0, 3.0])
        >>> similarity = align_similarity(source, target)
        >>> print(f"{similarity.scale:.3f}", similarity.apply(np.array([1.0, 1.0, 1.0])).round(3))
        2.000 [3. 4. 5.]
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    centered = source - source_mean
    left, singular, right = np.linalg.svd((target - target_mean).T @ centered / len(source))
    signs = np.ones(3)
    if np.linalg.det(left) * np.linalg.det(right) < 0:
        signs[2] = -1
    rotation = left * signs @ right
    scale = float((singular * signs).sum() / (centered**2).sum(1).mean())
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
