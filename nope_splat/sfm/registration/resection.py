"""The pose of one more image from points that are already there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.geometry.rigid import invert
from nope_splat.matching.database import MatchDatabase
from nope_splat.scene.features import PairMatches
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import Observations
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.pose_estimation import (
    AbsolutePoseOptions,
    estimate_absolute_pose,
    poselib_camera,
)
from nope_splat.utils.typing import Array, Indices

MIN_INLIERS = 12
"""Fewest points that must agree with a pose."""
PNP = AbsolutePoseOptions(
    abs_pose_max_error=4.0,
    abs_pose_min_num_inliers=MIN_INLIERS,
    abs_pose_min_inlier_ratio=0.25,
    min_num_trials=1000,
    max_num_refinements=100,
)
"""How images are registered against finished points, feature pixels."""


@dataclass(frozen=True)
class Resection:
    """A pose found from points."""

    T_world_camera: Array
    """Camera-to-world transform, OpenCV axes. (4, 4)."""
    inliers: NDArray[np.bool_]
    """The points that agree with it. (n,)."""


def resect(
    xy: Array, points: Array, camera: SharedPinhole, size: tuple[int, int], pixel_size: float = 1.0
) -> Resection | None:
    """Pose of an image from its view of known points: robust PnP, then refinement on the inliers.

    Args:
        xy: Where the points are seen, full-resolution pixels. (n, 2).
        points: World coordinates. (n, 3).
        camera: The camera that took it.
        size: Width and height of the image at full resolution.
        pixel_size: Side of a feature pixel in full-resolution pixels: the unit of the error threshold.

    Returns:
        The pose, or None if too few points agree with any.
    """
    if len(xy) < MIN_INLIERS:
        return None
    model = poselib_camera(camera.focal, camera.principal_points(np.array(size)), camera.radial)
    options = replace(
        PNP, abs_pose_max_error=PNP.abs_pose_max_error * pixel_size, loss_scale=PNP.loss_scale * pixel_size
    )
    pose = estimate_absolute_pose(xy, points, model, options)
    if not pose.success:
        return None
    return Resection(invert(pose.T), pose.inliers)


def resect_held_out(
    scene: Reconstruction,
    matches: MatchDatabase,
    points_of_keypoints: Sequence[Indices],
    layout: CameraGroups,
) -> tuple[Reconstruction, dict[str, str]]:
    """Register the held-out images against the finished points.

    Args:
        scene: The scene of the training images.
        matches: Verified matches of all images.
        points_of_keypoints: For each training image, the point of each keypoint, -1 for none. (K,) each.
        layout: Sizes and cameras of the images.

    Returns:
        The scene with their poses and observations; why others have none, by name.
    """
    poses, registered = scene.T_world_camera.copy(), scene.registered.copy()
    failures: dict[str, str] = {}
    point_ids, image_ids, positions = [], [], []
    known = np.unique(scene.camera_ids[scene.registered])
    for image_id in np.flatnonzero(scene.held_out):
        if scene.camera_ids[image_id] not in known:
            failures[scene.image_names[image_id]] = "held out, and no other photo of its camera has a pose"
            continue
        mine = [
            pair
            for pair in matches.pairs
            if image_id in (pair.first, pair.second)
            and not scene.held_out[pair.second if pair.first == image_id else pair.first]
        ]
        keypoint_ids, points = find_correspondences(int(image_id), mine, points_of_keypoints)
        xy = matches.keypoints[image_id].xy[keypoint_ids]
        width, height = scene.image_sizes[image_id].tolist()
        pixel_size = float(layout.pixel_sizes[image_id])
        found = resect(xy, scene.points[points], scene.camera_of(image_id), (width, height), pixel_size)
        if found is None:
            failures[scene.image_names[image_id]] = (
                f"held out, and only {len(xy)} of the {MIN_INLIERS} needed track points visible"
                if len(xy) < MIN_INLIERS
                else f"held out, and its {len(xy)} visible track points do not agree with one pose"
            )
            continue
        poses[image_id], registered[image_id] = found.T_world_camera, True
        point_ids.append(points[found.inliers])
        image_ids.append(np.full(int(found.inliers.sum()), image_id))
        positions.append(xy[found.inliers])
    if not point_ids:
        return scene, failures
    points, images, xy = map(np.concatenate, (point_ids, image_ids, positions))
    order = np.lexsort((images, points))
    resections = Observations(points[order], images[order], xy[order])
    return replace(scene, T_world_camera=poses, registered=registered, resections=resections), failures


def find_correspondences(
    image_id: int, pairs: Sequence[PairMatches], points_of_keypoints: Sequence[Indices]
) -> tuple[Indices, Indices]:
    """Keypoints of an image that match keypoints of points, the strongest claims first served.

    Args:
        image_id: An image that the points do not know.
        pairs: Its verified pairs with images that see the points.
        points_of_keypoints: For each image, the point of each keypoint, -1 for none. (K,) each.

    Returns:
        Keypoints and points, each at most once. (n,), (n,).
    """
    claims = [np.zeros((0, 2), np.int64)]
    for pair in pairs:
        mine, other = (0, 1) if pair.first == image_id else (1, 0)
        points = points_of_keypoints[pair.second if mine == 0 else pair.first][pair.indices[:, other]]
        claims.append(np.stack([pair.indices[:, mine], points], axis=1)[points >= 0])
    links, votes = np.unique(np.concatenate(claims), axis=0, return_counts=True)
    for column in (0, 1):  # of the points of one keypoint, then of the keypoints of one point, the most voted
        order = np.lexsort((-votes, links[:, column]))
        first = np.unique(links[order, column], return_index=True)[1]
        links, votes = links[order[first]], votes[order[first]]
    return links[:, 0], links[:, 1]
