"""Resection: estimation of the pose of an image from known 3D points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.rigid import invert
from nope_splat.matching.database import MatchDatabase
from nope_splat.scene.features import PairMatches
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import Observations
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.pose_estimation import estimate_absolute_pose
from nope_splat.sfm.pose_options import AbsolutePoseOptions
from nope_splat.utils.typing import Array, Indices

RESECTION_OPTIONS = AbsolutePoseOptions(
    abs_pose_max_error=4.0,
    abs_pose_min_num_inliers=12,
    abs_pose_min_inlier_ratio=0.25,
    min_num_trials=1000,
    max_num_refinements=100,
)
"""Options of resection from refined points; errors are in pixels at keypoint detection resolution."""


@dataclass(frozen=True)
class Resection:
    """Pose estimated from known 3D points, with its inliers."""

    T_world_camera: Array
    """Camera-to-world transform (OpenCV axes). (4, 4)."""
    inliers: NDArray[np.bool_]
    """True for points whose reprojection error is within the inlier threshold. (n,)."""


def resect(
    xy: Array,
    points: Array,
    camera: Camera,
    size: tuple[int, int],
    pixel_size: float = 1.0,
    options: AbsolutePoseOptions = RESECTION_OPTIONS,
) -> Resection | None:
    """Estimate the pose of an image from known 3D points by PnP with RANSAC, and refine it on the inliers.

    Args:
        xy: Observed image coordinates of the points, in full-resolution pixels. (n, 2).
        points: World coordinates of the points. (n, 3).
        camera: Intrinsics of the image.
        size: Width and height of the image at full resolution, in pixels.
        pixel_size: Full-resolution pixels per pixel at keypoint detection resolution; converts the thresholds
            of `options`.
        options: Thresholds, in pixels at keypoint detection resolution.

    Returns:
        The pose with its inliers; None if there are too few inliers.
    """
    if len(xy) < options.abs_pose_min_num_inliers:
        return None
    options = replace(
        options,
        abs_pose_max_error=options.abs_pose_max_error * pixel_size,
        loss_scale=options.loss_scale * pixel_size,
    )
    centered = xy - np.array(size) / 2
    pose = estimate_absolute_pose(centered, points, camera, options)
    if not pose.success:
        return None
    return Resection(invert(pose.T), pose.inliers)


def resect_held_out(
    reconstruction: Reconstruction,
    matches: MatchDatabase,
    points_of_keypoints: Sequence[Indices],
    camera_groups: CameraGroups,
) -> tuple[Reconstruction, dict[str, str]]:
    """Register the held-out images by resection from the points of the training images.

    Args:
        reconstruction: Reconstruction of the training images.
        matches: Keypoints of all images, and their verified matches.
        points_of_keypoints: Index of the 3D point of each keypoint of each image, -1 without a point. (K,)
            each.
        camera_groups: Image sizes, and camera of each image.

    Returns:
        The reconstruction with poses and observations of held-out images; and the reasons why held-out images
        could not be registered, by image name.
    """
    poses, registered = reconstruction.T_world_camera.copy(), reconstruction.registered.copy()
    held_out, min_num_points = reconstruction.held_out, RESECTION_OPTIONS.abs_pose_min_num_inliers
    failures: dict[str, str] = {}
    point_ids, image_ids, inlier_xy = [], [], []
    known_cameras = np.unique(reconstruction.camera_ids[reconstruction.registered])
    for image_id in np.flatnonzero(held_out).tolist():
        name = reconstruction.image_names[image_id]
        if reconstruction.camera_ids[image_id] not in known_cameras:
            failures[name] = "held out, and no other photo of its camera has a pose"
            continue
        pairs = [
            pair
            for pair in matches.pairs
            if image_id in (pair.first, pair.second)
            and not held_out[pair.second if pair.first == image_id else pair.first]
        ]
        keypoint_ids, points = find_correspondences(image_id, pairs, points_of_keypoints)
        xy = matches.keypoints[image_id].xy[keypoint_ids]
        width, height = reconstruction.image_sizes[image_id].tolist()
        pixel_size = float(camera_groups.pixel_sizes[image_id])
        camera = reconstruction.camera_of(image_id)
        resection = resect(xy, reconstruction.points[points], camera, (width, height), pixel_size)
        if resection is None:
            failures[name] = (
                f"held out, and only {len(xy)} track points are visible, but {min_num_points} are needed"
                if len(xy) < min_num_points
                else f"held out, and its {len(xy)} visible track points are not consistent with any pose"
            )
            continue
        poses[image_id], registered[image_id] = resection.T_world_camera, True
        point_ids.append(points[resection.inliers])
        image_ids.append(np.full(int(resection.inliers.sum()), image_id))
        inlier_xy.append(xy[resection.inliers])
    if not point_ids:
        return reconstruction, failures
    points, images, xy = map(np.concatenate, (point_ids, image_ids, inlier_xy))
    order = np.lexsort((images, points))
    resections = Observations(points[order], images[order], xy[order])
    return (
        replace(reconstruction, T_world_camera=poses, registered=registered, resections=resections),
        failures,
    )


def find_correspondences(
    image_id: int, pairs: Sequence[PairMatches], points_of_keypoints: Sequence[Indices]
) -> tuple[Indices, Indices]:
    """Find one-to-one correspondences between keypoints of an image and 3D points, from verified matches.

    If matches assign several points to a keypoint, or several keypoints to a point, the assignment supported
    by the most matches is kept.

    Args:
        image_id: Index of the image to register.
        pairs: Verified pairs of the image with images that observe points.
        points_of_keypoints: Index of the 3D point of each keypoint of each image, -1 without a point. (K,)
            each.

    Returns:
        Keypoint indices (n,) and indices of the corresponding points (n,), both without duplicates.
    """
    candidates = [np.zeros((0, 2), np.int64)]
    for pair in pairs:
        column, other_column, other = (0, 1, pair.second) if pair.first == image_id else (1, 0, pair.first)
        points = points_of_keypoints[other][pair.indices[:, other_column]]
        candidates.append(np.stack([pair.indices[:, column], points], axis=1)[points >= 0])
    links, votes = np.unique(np.concatenate(candidates), axis=0, return_counts=True)
    for column in (0, 1):  # keep the best point of each keypoint, then the best keypoint of each point
        order = np.lexsort((-votes, links[:, column]))
        first = np.unique(links[order, column], return_index=True)[1]
        links, votes = links[order[first]], votes[order[first]]
    return links[:, 0], links[:, 1]
