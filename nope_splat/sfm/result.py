"""Convert the SfM state to a `Reconstruction` and log a summary."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import NO_DISTORTION, Camera
from nope_splat.geometry.rigid import invert
from nope_splat.io.images import ImageFolder, read_image
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices, Mask

logger = logging.getLogger(__name__)


def to_reconstruction(
    state: SfmState, folder: ImageFolder, held_out: Mask, problem: SfmProblem, graph: MatchGraph
) -> tuple[Reconstruction, list[Indices]]:
    """Convert the state of SfM to a reconstruction in full-resolution pixels.

    Args:
        state: The refined state.
        folder: The images.
        held_out: Whether each image is held out for evaluation. (N,).
        problem: Keypoints, and camera of each image.
        graph: The match graph.

    Returns:
        The reconstruction, without resections, failures and colors (all points are black); and one array per
        image with the point index of each keypoint of the image, -1 for keypoints without a point. (K,) each.
    """
    camera_groups = problem.camera_groups
    rows = np.flatnonzero(state.inlier)
    point_of_track = np.cumsum(state.has_point) - 1
    point_ids, image_ids = point_of_track[state.track_ids[rows]], state.image_ids[rows]
    keypoint_ids = state.keypoint_ids[rows]
    points_of_keypoints = []
    for image_id, keypoints in enumerate(problem.keypoints):
        in_image = image_ids == image_id
        point_of_keypoint = np.full(len(keypoints.xy), -1)
        point_of_keypoint[keypoint_ids[in_image]] = point_ids[in_image]
        points_of_keypoints.append(point_of_keypoint)
    points = state.points[state.has_point]
    xy = state.xy[rows] * camera_groups.pixel_sizes[image_ids, None] + camera_groups.sizes[image_ids] / 2
    turns = state.upright_from_sensor
    none = Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    reconstruction = Reconstruction(
        image_names=tuple(image.name for image in folder.images),
        image_sizes=camera_groups.sizes,
        held_out=held_out,
        registered=state.registered.copy(),
        T_world_camera=invert(state.T_camera_world),
        cameras=full_resolution_cameras(state, camera_groups, problem.options.refinement.min_distortion),
        camera_ids=camera_groups.camera_ids,
        upright_from_sensor=None if np.array_equal(turns, np.broadcast_to(np.eye(2), turns.shape)) else turns,
        points=points,
        colors=np.zeros(points.shape, np.uint8),
        observations=Observations(point_ids, image_ids, xy),
        noise=state.sigma[rows] * camera_groups.pixel_sizes[image_ids],
        resections=none,
        failures={},
        graph=graph,
        seconds={},
        focal_fixed=state.fix_focal,
    )
    return reconstruction, points_of_keypoints


def full_resolution_cameras(
    state: SfmState, camera_groups: CameraGroups, min_distortion: float
) -> tuple[Camera, ...]:
    """Convert the intrinsics of each camera to full-resolution pixels.

    Args:
        state: The refined state.
        camera_groups: Image sizes, and camera of each image.
        min_distortion: If distortion displaces all pixels by less than this value, in pixels at
            keypoint detection resolution, the distortion is set to zero.
    """
    cameras = []
    for camera_id, pixel_size in enumerate(camera_groups.camera_pixel_sizes.tolist()):
        x, y = (state.offset[camera_id] * pixel_size).tolist()
        terms, is_fisheye = tuple(state.distortion[camera_id].tolist()), bool(state.is_fisheye[camera_id])
        camera = Camera(float(state.focal[camera_id]) * pixel_size, (x, y), terms, is_fisheye)
        size = camera_groups.sizes[camera_groups.camera_ids == camera_id].max(axis=0)
        if camera.largest_distortion(size) < min_distortion * pixel_size:
            camera = replace(camera, distortion=NO_DISTORTION)
        cameras.append(camera)
    return tuple(cameras)


def point_colors(
    folder: ImageFolder, reconstruction: Reconstruction, camera_groups: CameraGroups
) -> NDArray[np.uint8]:
    """Average the color of each point over its observations.

    Args:
        folder: The images.
        reconstruction: Points and observations.
        camera_groups: Keypoint detection resolution of each image; images are read at this resolution.

    Returns:
        RGB colors. (P, 3).
    """
    observations = reconstruction.observations
    total = np.zeros((len(reconstruction.points), 3))
    for image_id in np.unique(observations.image_ids):
        in_image, pixel_size = observations.image_ids == image_id, camera_groups.pixel_sizes[image_id]
        width, height = (round(side / pixel_size) for side in reconstruction.image_sizes[image_id].tolist())
        image = read_image(folder.images[image_id], (width, height))[..., :3]
        column, row = (observations.xy[in_image] / pixel_size).astype(np.int64).T
        # A point has at most one observation in an image.
        total[observations.point_ids[in_image]] += image[row.clip(0, height - 1), column.clip(0, width - 1)]
    count = np.bincount(observations.point_ids, minlength=len(reconstruction.points))
    return np.rint(total / np.maximum(count, 1)[:, None]).astype(np.uint8)


def log_summary(reconstruction: Reconstruction) -> None:
    """Log the number of registered images, the focal length, all notices, and the images that failed.

    Args:
        reconstruction: The finished reconstruction.
    """
    training = ~reconstruction.held_out
    focals = " and ".join(f"{camera.focal:.1f}" for camera in reconstruction.cameras)
    error = float(np.median(reconstruction.reprojection_errors()))
    logger.info(
        f"Registered {(reconstruction.registered & training).sum()} of {training.sum()} photos:"
        f" focal length {focals} pixels, {len(reconstruction.points)} points,"
        f" median reprojection error {error:.2f} pixels."
    )
    for notice in reconstruction.notices:
        logger.warning(f"{notice.message[0].upper()}{notice.message[1:]}.")
    names_of_reason: dict[str, list[str]] = {}
    for name, reason in reconstruction.failures.items():
        names_of_reason.setdefault(reason, []).append(name)
    for reason, names in names_of_reason.items():
        logger.warning(f"Left out {', '.join(names)}: {reason}.")
