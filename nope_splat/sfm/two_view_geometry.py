"""Relative poses of verified pairs for given focal lengths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import invert, transform
from nope_splat.scene.features import PairMatches
from nope_splat.sfm.mapper_options import TwoViewPoseOptions
from nope_splat.sfm.pose_estimation import estimate_relative_pose
from nope_splat.sfm.pose_options import RelativePoseOptions
from nope_splat.sfm.triangulation import angles_between, triangulate_two_views
from nope_splat.utils.typing import Array, Indices


@dataclass(frozen=True)
class TwoView:
    """Verified pair with its relative pose."""

    matches: PairMatches
    """Matches that are inliers of the relative pose, with triangulated points in front of both cameras."""
    T_second_first: Array
    """Transform from the first to the second camera (OpenCV axes), with a translation of length one.
    (4, 4)."""
    depths: Array
    """Depth of each match in the first and in the second camera, in units of the baseline (see
    `depth_along`). (M, 2)."""
    angle: float
    """Median triangulation angle of the matches, in degrees."""

    def __len__(self) -> int:
        return len(self.matches.indices)

    def from_image(self, image_id: int) -> tuple[int, Array, Indices, Array]:
        """Return the relative pose and the matches, ordered so that a given image comes first.

        Args:
            image_id: Index of either image of the pair.

        Returns:
            Index of the other image; transform from the camera of `image_id` to the camera of the other image
            (4, 4); keypoint indices (M, 2) and depths (M, 2), with `image_id` in column 0 and the other image
            in column 1.
        """
        pair = self.matches
        if image_id == pair.first:
            return pair.second, self.T_second_first, pair.indices, self.depths
        return pair.first, invert(self.T_second_first), pair.indices[:, ::-1], self.depths[:, ::-1]


TwoViews = dict[tuple[int, int], TwoView]
"""Relative poses and inlier matches, by the image indices of each pair, smaller index first."""


def relative_poses(
    centered_keypoints: Sequence[Array],
    pairs: Sequence[PairMatches],
    cameras: Sequence[Camera],
    seed: int = 0,
    options: TwoViewPoseOptions = TwoViewPoseOptions(),
) -> TwoViews:
    """Estimate the relative pose of each pair by the five-point algorithm.

    Args:
        centered_keypoints: Keypoints of each image relative to the image center, in pixels at keypoint
            detection resolution. (K, 2) each.
        pairs: Verified matches of each image pair.
        cameras: Intrinsics of each image, in pixels at keypoint detection resolution, with principal points
            at the image center.
        seed: Random seed of RANSAC.
        options: Maximum epipolar error, and minimum number of inliers.

    Returns:
        Relative poses and inlier matches by pair; pairs with too few inliers are omitted.
    """

    def estimate(pair: PairMatches) -> TwoView | None:
        return _relative_pose(centered_keypoints, pair, cameras, seed, options)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {
            (two_view.matches.first, two_view.matches.second): two_view
            for two_view in pool.map(estimate, pairs)
            if two_view is not None
        }


def depth_along(rays: Array, points_camera: Array, is_fisheye: bool) -> Array:
    """Compute the depths of points: along the optical axis or, for fisheye lenses, along their rays.

    Args:
        rays: Viewing rays in camera coordinates (OpenCV axes); unit vectors for fisheye lenses. (n, 3).
        points_camera: Points in camera coordinates. (n, 3).
        is_fisheye: Whether the projection of the lens is equidistant instead of perspective.

    Returns:
        Depths, negative for points behind the camera or opposite to their ray. (n,).
    """
    return np.einsum("ni,ni->n", rays, points_camera) if is_fisheye else points_camera[:, 2]


def _relative_pose(
    centered_keypoints: Sequence[Array],
    pair: PairMatches,
    cameras: Sequence[Camera],
    seed: int,
    options: TwoViewPoseOptions,
) -> TwoView | None:
    """Estimate the relative pose of one pair; None if there are too few inliers."""
    first = centered_keypoints[pair.first][pair.indices[:, 0]]
    second = centered_keypoints[pair.second][pair.indices[:, 1]]
    if len(first) < options.min_num_inliers:
        return None
    camera_first, camera_second = cameras[pair.first], cameras[pair.second]
    pose = estimate_relative_pose(
        first,
        second,
        camera_first,
        camera_second,
        RelativePoseOptions(options.max_epipolar_error, random_seed=seed),
    )
    T_second_first = pose.T
    rays_first, rays_second = (
        unproject(xy, camera.focal, camera.lens if camera.is_fisheye else None)
        for xy, camera in ((first, camera_first), (second, camera_second))
    )
    points = triangulate_two_views(np.eye(4), rays_first, T_second_first, rays_second)
    depths = np.stack(
        [
            depth_along(rays_first, points, camera_first.is_fisheye),
            depth_along(rays_second, transform(T_second_first, points), camera_second.is_fisheye),
        ],
        axis=1,
    )
    is_inlier = pose.inliers & (depths > 0).all(1)
    if is_inlier.sum() < options.min_num_inliers:
        return None
    center = invert(T_second_first)[:3, 3]
    return TwoView(
        matches=replace(pair, indices=pair.indices[is_inlier]),
        T_second_first=T_second_first,
        depths=depths[is_inlier],
        angle=float(np.median(angles_between(points[is_inlier], points[is_inlier] - center))),
    )
