"""Relative poses of matched pairs at known focal lengths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import invert, transform
from nope_splat.scene.features import PairMatches
from nope_splat.sfm.pose_estimation import RelativePoseOptions, estimate_relative_pose, poselib_camera
from nope_splat.sfm.triangulation import angles_between, intersect
from nope_splat.utils.typing import Array, Indices

MAX_EPIPOLAR_ERROR = 2.0
"""Largest epipolar error of a match, feature pixels."""
MIN_INLIERS = 15
"""Fewest matches that make a relative pose."""


@dataclass(frozen=True)
class TwoView:
    """A verified pair with its relative pose."""

    matches: PairMatches
    """The matches that agree with the pose and lie in front of both cameras."""
    T_second_first: Array
    """Camera coordinates of the first image to those of the second; unit translation. (4, 4)."""
    depths: Array
    """Depth of each match in the first and in the second image, in units of the baseline. (M, 2)."""
    angle: float
    """Median angle between the two rays of a match, degrees: the parallax of the pair."""

    def __len__(self) -> int:
        return len(self.matches.indices)

    def from_image(self, image_id: int) -> tuple[int, Array, Indices, Array]:
        """The pair as seen from one of its images.

        Args:
            image_id: One of the two.

        Returns:
            The other image; transform from `image_id` to it (4, 4); keypoints (M, 2) and depths (M, 2)
            of `image_id` in column 0 and of the other in column 1.
        """
        pair = self.matches
        if image_id == pair.first:
            return pair.second, self.T_second_first, pair.indices, self.depths
        return pair.first, invert(self.T_second_first), pair.indices[:, ::-1], self.depths[:, ::-1]


TwoViews = dict[tuple[int, int], TwoView]
"""Relative poses by pair of images."""


def relative_poses(
    positions: Sequence[Array], pairs: Sequence[PairMatches], focals: Array, seed: int = 0
) -> TwoViews:
    """Relative pose of each pair by the five-point method; pairs that have none are dropped.

    Args:
        positions: Keypoints of each image, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches.
        focals: Focal length of each image in feature pixels. (N,).
        seed: Seed of RANSAC.

    Returns:
        Image indices to relative pose.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        views = pool.map(lambda pair: _relative_pose(positions, pair, focals, seed), pairs)
        return {(view.matches.first, view.matches.second): view for view in views if view is not None}


def _relative_pose(positions: Sequence[Array], pair: PairMatches, focals: Array, seed: int) -> TwoView | None:
    """Relative pose of one pair, None if too few matches agree with any."""
    first = positions[pair.first][pair.indices[:, 0]]
    second = positions[pair.second][pair.indices[:, 1]]
    if len(first) < MIN_INLIERS:
        return None
    focal_first, focal_second = focals[[pair.first, pair.second]].tolist()
    options = RelativePoseOptions(MAX_EPIPOLAR_ERROR, random_seed=seed)
    pose = estimate_relative_pose(
        first, second, poselib_camera(focal_first), poselib_camera(focal_second), options
    )
    T_second_first = pose.T
    rays_first, rays_second = unproject(first, focal_first), unproject(second, focal_second)
    points = intersect(np.eye(4), rays_first, T_second_first, rays_second)
    depths = np.stack([points[:, 2], transform(T_second_first, points)[:, 2]], axis=1)
    good = pose.inliers & (depths > 0).all(1)
    if good.sum() < MIN_INLIERS:
        return None
    center = invert(T_second_first)[:3, 3]
    return TwoView(
        matches=replace(pair, indices=pair.indices[good]),
        T_second_first=T_second_first,
        depths=depths[good],
        angle=float(np.median(angles_between(points[good], points[good] - center))),
    )
