"""Input of SfM: the matches of all training images, and known cameras given by the user."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from nope_splat.io.images import ImageFolder
from nope_splat.matching.database import MatchDatabase
from nope_splat.sfm.camera_assignment import assign_cameras, find_lenses, upright_from_sensor
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.problem import ImageProperties, Priors, SfmProblem
from nope_splat.utils.typing import Mask

logger = logging.getLogger(__name__)


def read_known_cameras(options: SfmOptions, folder: ImageFolder, held_out: Mask) -> KnownCameras | None:
    """Read the known cameras, if the reconstruction is initialized with known cameras.

    Args:
        options: Options of SfM.
        folder: The images.
        held_out: Whether each image is held out for evaluation. (N,).

    Returns:
        The known cameras of training images; None for other initializations.
    """
    if not isinstance(options.initialization, KnownCamerasInitialization):
        return None
    camera_ids = assign_cameras(folder.images, options.camera_per)
    return KnownCameras.read(options.initialization.path, folder.images, held_out, camera_ids)


def training_problem(
    folder: ImageFolder, held_out: Mask, matches: MatchDatabase, options: SfmOptions, priors: Priors
) -> SfmProblem:
    """Collect the matches of all training images, with priors and options, as input of SfM.

    Args:
        folder: The images.
        held_out: Whether each image is held out for evaluation. (N,).
        matches: Keypoints of all images, and their verified matches.
        options: Options of SfM.
        priors: Known cameras, depth maps and initial focal length.

    Returns:
        The input of SfM, without matches of held-out or mirrored images.
    """
    sizes = np.array([(image.width, image.height) for image in folder.images], dtype=np.int64)
    camera_ids = assign_cameras(folder.images, options.camera_per)
    turns = upright_from_sensor(folder.images, camera_ids)
    camera_groups = CameraGroups.from_keypoints(sizes, camera_ids, matches.keypoints, turns)
    if camera_groups.num_cameras > 1:
        counts = np.bincount(camera_groups.camera_ids).tolist()
        logger.info(f"The photos come from {camera_groups.num_cameras} cameras; photos per camera: {counts}.")
    lenses = find_lenses(folder.images, camera_ids)
    exif_focals = np.array([np.nan if lens.focal is None else lens.focal for lens in lenses])
    excluded = held_out | matches.mirrored
    names = tuple(image.name for image in folder.images)
    mirrored = tuple(names[image_id] for image_id in matches.mirrored_ids.tolist())
    return SfmProblem(
        keypoints=matches.keypoints,
        camera_groups=camera_groups,
        pairs=[pair for pair in matches.pairs if not excluded[pair.first] and not excluded[pair.second]],
        pointmaps=matches.pointmaps and matches.pointmaps.without(held_out),
        priors=replace(priors, exif_focals=exif_focals),
        images=ImageProperties(names, matches.repetition, matches.stationary, mirrored),
        options=options.mapper,
        seed=options.matching.seed,
    )
