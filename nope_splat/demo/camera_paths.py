"""Camera trajectories through the demo scene."""

from __future__ import annotations

import numpy as np
import trimesh

from nope_splat.utils.typing import Array


def arc_poses(rng: np.random.Generator, num_images: int) -> Array:
    """Sample camera poses on an arc of 150 degrees around the demo scene, facing its center.

    Spacing, distance, height and roll angle vary randomly. About two thirds of all image pairs overlap.

    Args:
        rng: Random generator.
        num_images: Number of poses.

    Returns:
        Camera-to-world transforms, OpenCV axes. (num_images, 4, 4).
    """
    step = np.deg2rad(150.0) / max(num_images - 1, 1)
    poses = []
    for index in range(num_images):
        azimuth = -np.pi / 2 + step * (index - (num_images - 1) / 2 + rng.uniform(-0.3, 0.3))
        distance, height = rng.uniform(2.9, 3.5), rng.uniform(0.7, 1.7)
        position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
        pose = _look_at(position, np.array([0.0, 0.2, 0.45]) + rng.uniform(-0.2, 0.2, 3))
        roll = trimesh.transformations.rotation_matrix(rng.uniform(-0.08, 0.08), [0.0, 0.0, 1.0])
        poses.append(pose @ roll)
    return np.stack(poses)


def tour_poses(rng: np.random.Generator, num_images: int) -> Array:
    """Sample camera poses on two rounds through the valley of the demo scene.

    The cameras face inward in the first round and outward in the second round; between the rounds, they turn
    gradually. With hundreds of images, about a tenth of all image pairs overlap, as in a capture of a large
    place.

    Args:
        rng: Random generator.
        num_images: Number of poses.

    Returns:
        Camera-to-world transforms, OpenCV axes. (num_images, 4, 4).
    """
    poses = []
    for index in range(num_images):
        along = (index + 0.5 + rng.uniform(-0.3, 0.3)) / num_images
        outward = np.interp(along, [0.375, 0.625], [0.0, 1.0])
        azimuth, turned = 4 * np.pi * along, np.pi * (1.0 + outward)
        distance = 3.3 - 0.5 * outward + rng.uniform(-0.2, 0.2)
        height = 1.2 + rng.uniform(-0.2, 0.2)
        position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
        heading = azimuth + turned + rng.uniform(-0.05, 0.05)
        slope = np.tan(-0.45 + 0.45 * outward + rng.uniform(-0.05, 0.05))
        direction: Array = np.array([np.cos(heading), np.sin(heading), slope])
        poses.append(_look_at(position, position + direction))
    return np.stack(poses)


def _look_at(position: Array, target: Array) -> Array:
    """Compute the pose of a camera without roll that faces a target.

    Args:
        position: Camera center in world coordinates, z up. (3,).
        target: World point that is projected to the image center. (3,).

    Returns:
        Camera-to-world transform, OpenCV axes. (4, 4).
    """
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose
