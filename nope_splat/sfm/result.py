"""Convert the SfM state to a `Reconstruction` and log a summary."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.geometry.rigid import invert
from nope_splat.io.images import ImageFolder, read_image
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices, Mask

logger = logging.getLogger(__name__)

MAX_FOCAL_UNCERTAINTY = 1.1 - 1
"""Three standard deviations of a focal length that the images determine, as a share of it."""
NEGLIGIBLE_DISTORTION = 0.1
"""Distortion that moves no place by as many feature pixels is left out: many tools take none."""


def to_reconstruction(
    state: SfmState, folder: ImageFolder, held_out: Mask, problem: SfmProblem, graph: MatchGraph
) -> tuple[Reconstruction, list[Indices]]:
    """Convert the state to full-resolution pixels.

    Args:
        state: The refined state.
        folder: The images.
        held_out: Images kept for evaluation. (N,).
        problem: Keypoints and cameras.
        graph: The match graph.

    Returns:
        The reconstruction, points still without colors; the point of each keypoint of each image, -1 for
        none.
    """
    layout = problem.camera_groups
    rows = np.flatnonzero(state.inlier)
    point_of_track = np.cumsum(state.has_point) - 1
    point_ids, image_ids = point_of_track[state.track_ids[rows]], state.image_ids[rows]
    keypoint_ids = state.keypoint_ids[rows]
    points_of_keypoints = []
    for image, one in enumerate(problem.keypoints):
        mine = image_ids == image
        table = np.full(len(one.xy), -1)
        table[keypoint_ids[mine]] = point_ids[mine]
        points_of_keypoints.append(table)
    points = state.points[state.has_point]
    cameras = []
    for number, pixel_size in enumerate(layout.camera_pixel_sizes.tolist()):
        (x, y), (k1, k2) = (state.offset[number] * pixel_size).tolist(), state.radial[number].tolist()
        camera = SharedPinhole(float(state.focal[number]) * pixel_size, (x, y), (k1, k2))
        size = layout.sizes[layout.camera_ids == number].max(axis=0)
        if camera.largest_distortion(size) < NEGLIGIBLE_DISTORTION * pixel_size:
            camera = replace(camera, radial=(0.0, 0.0))
        cameras.append(camera)
    xy = state.xy[rows] * layout.pixel_sizes[image_ids, None] + layout.sizes[image_ids] / 2
    none = Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    sparse = Reconstruction(
        image_names=tuple(image.name for image in folder.images),
        image_sizes=layout.sizes,
        held_out=held_out,
        registered=state.registered.copy(),
        T_world_camera=invert(state.T_camera_world),
        cameras=tuple(cameras),
        camera_ids=layout.camera_ids,
        points=points,
        colors=np.zeros(points.shape, np.uint8),
        observations=Observations(point_ids, image_ids, xy),
        noise=state.sigma[rows] * layout.pixel_sizes[image_ids],
        resections=none,
        failures={},
        graph=graph,
        seconds={},
        focal_fixed=state.fix_focal,
    )
    return sparse, points_of_keypoints


def point_colors(folder: ImageFolder, scene: Reconstruction, layout: CameraGroups) -> NDArray[np.uint8]:
    """Mean color of each point over its observations.

    Args:
        folder: The images.
        scene: Points and observations.
        layout: The sizes at which the images are read.

    Returns:
        RGB. (P, 3).
    """
    observations = scene.observations
    total = np.zeros((len(scene.points), 3))
    for image_id in np.unique(observations.image_ids):
        mine, pixel_size = observations.image_ids == image_id, layout.pixel_sizes[image_id]
        width, height = (round(side / pixel_size) for side in scene.image_sizes[image_id].tolist())
        image = read_image(folder.images[image_id], (width, height))[..., :3]
        column, row = (observations.xy[mine] / pixel_size).astype(np.int64).T
        # A point has at most one observation in an image.
        total[observations.point_ids[mine]] += image[row.clip(0, height - 1), column.clip(0, width - 1)]
    count = np.bincount(observations.point_ids, minlength=len(scene.points))
    return np.rint(total / np.maximum(count, 1)[:, None]).astype(np.uint8)


def focal_uncertainty(state: SfmState, options: MapperOptions) -> float:
    """Standard deviation of the focal length as a share of it, with the lens terms that were found.

    Args:
        state: The refined state.
        options: Triangulation and bundle adjustment.
    """
    return state.focal_uncertainty(state.offset.any(axis=1), state.radial.any(axis=1), options.ba_device)


def focal_notice(state: SfmState, problem: SfmProblem, uncertainty: float) -> str:
    """What the user should know about the focal length, if anything.

    Args:
        state: The refined state.
        problem: The connected component.
        uncertainty: Standard deviation of the focal length, as a share of it.
    """
    focals = (state.focal * problem.camera_groups.camera_pixel_sizes).tolist()
    focal = f"{' and '.join(f'{each:.0f}' for each in focals)} pixels"
    mend = "set initial-focal if you know it, or add photos from other directions"
    if state.fix_focal:
        why = "look straight at one flat surface, which does" if problem.is_planar else "do"
        return f"the photos {why} not show the focal length, which is taken to be {focal}; {mend}"
    if uncertainty > MAX_FOCAL_UNCERTAINTY / 3:
        return f"the photos hardly show the focal length, which seems to be {focal}; {mend}"
    if problem.is_planar:
        return (
            "the photos show hardly more than one flat surface; still, they determine the focal length"
            f" to {100 * uncertainty:.2g} %"
        )
    return ""


def log_summary(scene: Reconstruction) -> None:
    """Tell the outcome, and name the images that are left out.

    Args:
        scene: The finished scene.
    """
    training = ~scene.held_out
    focals = " and ".join(f"{camera.focal:.1f}" for camera in scene.cameras)
    error = float(np.median(scene.reprojection_errors()))
    logger.info(
        f"Registered {(scene.registered & training).sum()} of {training.sum()} photos:"
        f" focal length {focals} pixels, {len(scene.points)} points,"
        f" median reprojection error {error:.2f} pixels."
    )
    if scene.notice:
        logger.warning(f"{scene.notice[0].upper()}{scene.notice[1:]}.")
    names_of_reason: dict[str, list[str]] = {}
    for name, reason in scene.failures.items():
        names_of_reason.setdefault(reason, []).append(name)
    for reason, names in names_of_reason.items():
        logger.warning(f"Left out {', '.join(names)}: {reason}.")
