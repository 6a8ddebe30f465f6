"""Splitting of cameras whose images have different focal lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nope_splat.scene.features import PairMatches
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.focal import focal_from_known_cameras
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices


def separate_zooms(
    state: SfmState, evidence: Evidence, problem: SfmProblem, pairs: Sequence[PairMatches]
) -> SfmProblem | None:
    """Split cameras whose images do not fit one focal length.

    The images of a camera are sorted by their focal lengths from bundle adjustment with separate intrinsics
    (see `camera_profile`), and split at the largest ratio between neighboring focal lengths. Images without a
    pose are assigned by their focal lengths, estimated from the fundamental matrices of their pairs with
    registered images.

    Args:
        state: The refined state.
        evidence: Evidence about `state`, with the focal length of each image.
        problem: Matches and cameras of all training images.
        pairs: Verified matches of all images, including held-out images.

    Returns:
        The problem with more cameras; None if the images fit their cameras, if no ratio is large enough, or
        if the user gave cameras, a focal length or depth maps.
    """
    priors = problem.priors
    is_given = priors.known_cameras is not None or priors.initial_focal is not None
    if is_given or priors.depths or problem.pointmaps or not evidence.cameras_are_mixed:
        return None
    options, groups = problem.options.reliability.camera_profile, problem.camera_groups
    log_focals = np.log(evidence.camera_profile.focals)
    camera_ids = groups.camera_ids.copy()
    for camera in np.unique(camera_ids[state.registered]).tolist():
        images = np.flatnonzero(state.registered & (groups.camera_ids == camera))
        focals = np.sort(log_focals[images])
        widest = int(np.argmax(np.diff(focals))) if len(focals) > 1 else 0
        if len(focals) < 2 or focals[widest + 1] - focals[widest] < np.log(options.min_zoom_ratio):
            continue
        limit = (focals[widest] + focals[widest + 1]) / 2
        zoomed = images[log_focals[images] > limit]
        others = np.flatnonzero(~state.registered & (groups.camera_ids == camera))
        found = [_log_focal(image, evidence, state, groups, pairs) for image in others.tolist()]
        zoomed = np.append(zoomed, others[np.array(found) > limit])
        camera_ids[zoomed] = camera_ids.max() + 1
    if np.array_equal(camera_ids, groups.camera_ids):
        return None
    return problem.with_cameras(replace(groups, camera_ids=camera_ids))


def _log_focal(
    image_id: int,
    evidence: Evidence,
    state: SfmState,
    groups: CameraGroups,
    pairs: Sequence[PairMatches],
) -> float:
    """Estimate the natural logarithm of the focal length of an image without a pose.

    Args:
        image_id: Index of the image.
        evidence: Evidence with the focal lengths of the images with a pose.
        state: State with poses.
        groups: Image sizes, and camera of each image.
        pairs: Verified matches of all images.
    """
    by_image: Indices = np.arange(len(state.registered))
    ends = [
        pair
        for pair in pairs
        if (pair.first == image_id and state.registered[pair.second])
        or (pair.second == image_id and state.registered[pair.first])
    ]
    each_image = replace(groups, camera_ids=by_image)
    focals = evidence.camera_profile.focals
    return float(np.log(focal_from_known_cameras(image_id, ends, focals, each_image)))
