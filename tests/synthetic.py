"""Seeded synthetic scenes with known cameras, points and tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.io.images import Photo, PhotoFolder
from nope_splat.matching import Keypoints, PairMatches
from nope_splat.matching.database import FolderMatches
from nope_splat.sfm.camera_groups import PhotoLayout

Array = NDArray[np.float64]

CAMERA = SharedPinhole(700.0)


@dataclass(frozen=True)
class SyntheticScene:
    """Cameras around points, and the noisy keypoints that they would yield."""

    T_world_camera: Array
    """Camera-to-world transforms, OpenCV axes. (N, 4, 4)."""
    camera: SharedPinhole
    """The camera, or the first one."""
    size: tuple[int, int]
    """Width and height of its photographs."""
    layout: PhotoLayout
    """Sizes and cameras of all photographs."""
    points: Array
    """World coordinates. (P, 3)."""
    keypoints: tuple[Keypoints, ...]
    """Keypoints of each photograph, in random order."""
    points_of_keypoints: tuple[NDArray[np.int64], ...]
    """The point that each keypoint shows. (K,) each."""
    matches: FolderMatches
    """Verified matches between the photographs, some of them wrong."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the photographs."""
        return tuple(f"{photo:03d}.png" for photo in range(len(self.keypoints)))

    def poses_by_name(self) -> dict[str, Array]:
        """True camera-to-world transforms by photograph name."""
        return dict(zip(self.names, self.T_world_camera, strict=True))

    def write_photos(self, folder: Path) -> PhotoFolder:
        """Write a grey photograph for each camera, for the stages that read colours."""
        photos = []
        for name, (width, height) in zip(self.names, self.layout.sizes.tolist(), strict=True):
            Image.new("RGB", (width, height), (90, 120, 150)).save(folder / name)
            photos.append(Photo(folder / name, name, width, height))
        return PhotoFolder(folder, tuple(photos), {})


def look_at(position: Array, target: Array) -> Array:
    """Camera-to-world transform of a camera that looks at a target with z up, OpenCV axes. (4, 4)."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def ring(num_photos: int, arc: float = 90.0, radius: float = 4.0, seed: int = 0) -> Array:
    """Cameras on an arc of the given degrees, at varying heights, looking about the origin. (N, 4, 4)."""
    rng = np.random.default_rng(seed)
    angles = np.radians(np.linspace(-arc / 2, arc / 2, num_photos))
    heights = rng.uniform(-0.8, 1.2, num_photos)
    radii = radius * rng.uniform(0.9, 1.1, num_photos)
    positions = np.stack([radii * np.sin(angles), -radii * np.cos(angles), heights], axis=1)
    return np.stack([look_at(position, rng.uniform(-0.2, 0.2, 3)) for position in positions])


def random_points(num_points: int, seed: int = 0, extent: float = 1.0) -> Array:
    """Points spread through a cube about the origin. (P, 3)."""
    return np.random.default_rng(seed).uniform(-extent, extent, (num_points, 3))


def make_scene(
    num_photos: int = 8,
    num_points: int = 500,
    *,
    poses: Array | None = None,
    points: Array | None = None,
    camera: SharedPinhole = CAMERA,
    size: tuple[int, int] = (640, 480),
    second: tuple[SharedPinhole, tuple[int, int]] | None = None,
    noise: float = 0.3,
    wrong: float = 0.05,
    sees: Callable[[int, NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
) -> SyntheticScene:
    """Make a scene.

    Args:
        num_photos: Cameras on the default arc, unless `poses` are given.
        num_points: Points of the default cube, unless `points` are given.
        poses: Camera-to-world transforms. (N, 4, 4).
        points: World coordinates. (P, 3).
        camera: The camera.
        size: Width and height of its photographs.
        second: Another camera and the size of its photographs, which are every other one, from the second on.
        noise: Standard deviation of the keypoints in pixels.
        wrong: Share of wrong matches in each pair.
        sees: Given a photograph and point indices, which of them may be seen there; all by default.
        pairs: Pairs of photographs that match; all with at least 15 common points by default.
        seed: Seed of everything random.

    Returns:
        The scene.
    """
    rng = np.random.default_rng(seed)
    poses = ring(num_photos, seed=seed) if poses is None else poses
    points = random_points(num_points, seed) if points is None else points
    kinds = [(camera, size), second or (camera, size)]
    cameras, sizes = zip(*[kinds[photo % 2] for photo in range(len(poses))], strict=True)
    sizes = np.array(sizes)
    camera_ids = np.arange(len(poses)) % 2 if second else np.zeros(len(poses), np.int64)
    keypoints, points_of_keypoints = [], []
    for photo, pose in enumerate(poses):
        in_camera = (points - pose[:3, 3]) @ pose[:3, :3]
        visible = in_camera[:, 2] > 0.1
        xy = np.full((len(points), 2), np.inf)
        xy[visible] = cameras[photo].project(in_camera[visible], sizes[photo])
        xy += rng.normal(0, noise, xy.shape)
        visible &= ((xy > 0) & (xy < sizes[photo])).all(1)
        ids = rng.permutation(np.flatnonzero(visible))
        ids = ids if sees is None else ids[sees(photo, ids)]
        keypoints.append(Keypoints(xy[ids], np.zeros((len(ids), 0), np.float32)))
        points_of_keypoints.append(ids)
    matched = []
    for left, right in pairs if pairs is not None else combinations(range(len(poses)), 2):
        _, one, two = np.intersect1d(
            points_of_keypoints[left], points_of_keypoints[right], return_indices=True
        )
        if len(one) < 15:
            continue
        bad = rng.permutation(len(one))[: int(wrong * len(one))]
        two[bad] = two[np.roll(bad, 1)]
        matched.append(
            PairMatches(
                left,
                right,
                np.stack([one, two], axis=1),
                _fundamental(
                    poses[left], poses[right], *([each[left], each[right]] for each in (cameras, sizes))
                ),
                homography_ratio=0.3,
            )
        )
    return SyntheticScene(
        poses,
        camera,
        size,
        PhotoLayout.of(sizes, camera_ids, keypoints),
        points,
        tuple(keypoints),
        tuple(points_of_keypoints),
        FolderMatches(tuple(keypoints), tuple(matched)),
    )


def _fundamental(
    first: Array, second: Array, cameras: Sequence[SharedPinhole], sizes: Sequence[NDArray[np.int64]]
) -> Array:
    """Fundamental matrix of two posed photographs. (3, 3)."""
    relative = np.linalg.inv(second) @ first
    x, y, z = relative[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative[:3, :3]
    to_first, to_second = (
        np.linalg.inv([[camera.focal, 0, cx], [0, camera.focal, cy], [0, 0, 1]])
        for camera, (cx, cy) in (
            (camera, camera.principal_points(size)) for camera, size in zip(cameras, sizes, strict=True)
        )
    )
    fundamental = to_second.T @ essential @ to_first
    return fundamental / (np.linalg.norm(fundamental) or 1.0)  # none where the camera only turned


def unit(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)
