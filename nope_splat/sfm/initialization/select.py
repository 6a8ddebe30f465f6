"""Cameras and points of one group of images, from each start that the settings and pairs offer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from nope_splat.depth import DepthMap
from nope_splat.matching import Keypoints, PairMatches, Pointmaps
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.focal import (
    PLAUSIBLE,
    FocalEstimate,
    focal_starts,
    joint_starts,
    prior_focal,
)
from nope_splat.sfm.initialization.known_cameras import KnownCameras, start_from_known_cameras
from nope_splat.sfm.initialization.monocular_depth import default_focal, start_from_depth
from nope_splat.sfm.initialization.pointmap_alignment import align_pointmaps
from nope_splat.sfm.initialization.pointmap_fusion import pointmap_focals
from nope_splat.sfm.initialization.two_view import TwoView, relative_poses
from nope_splat.sfm.options import ReconstructionSettings
from nope_splat.sfm.registration.batched import register_batches
from nope_splat.sfm.registration.incremental import register_incremental, register_others
from nope_splat.sfm.registration.spanning_tree import register_chain
from nope_splat.sfm.state import FocalPrior, SfmState
from nope_splat.utils.stopwatch import Stopwatch
from nope_splat.utils.typing import Array

logger = logging.getLogger(__name__)

RESTART_FACTOR = 1.1
"""Change of the focal length during registration from which it pays to start again with the better one."""


def register_group(
    keypoints: Sequence[Keypoints],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    layout: CameraGroups,
    settings: ReconstructionSettings,
    clock: Stopwatch,
    given: KnownCameras | None,
    depths: Mapping[int, DepthMap] | None,
    pointmaps: Pointmaps | None,
    fix_focal: bool,
) -> tuple[SfmState | None, dict[tuple[int, int], TwoView], dict[int, str]]:
    """Register one group of images, from the start that goes furthest.

    Args:
        keypoints: Keypoints of each image.
        positions: The same from the image's center, feature pixels. One (K, 2) for each image.
        pairs: Verified pairs of the group.
        layout: Which camera took which image.
        settings: How to do it.
        clock: Adds the seconds of each stage.
        given: Cameras to start from, if any.
        depths: Depth of images to start from, if any, by their indices.
        pointmaps: Pointmaps of pairs, if the matcher makes them.
        fix_focal: Whether the focal length stays as it is at the start.

    Returns:
        The scene, None if no start registers two images; relative poses of pairs at that start; why
        images were left out.
    """
    min_angle, device, seed = settings.min_triangulation_angle, settings.adjustment_device, settings.seed
    estimates, focal_prior = None, None
    if given is None and pointmaps is not None:
        group = np.unique([(pair.first, pair.second) for pair in pairs])
        pointmaps = pointmaps.without(~np.isin(np.arange(len(layout.sizes)), group))
        estimates = pointmap_focals(pointmaps, layout)
        if settings.initial_focal is not None:  # of one camera, then
            focal = settings.initial_focal / float(layout.camera_pixel_sizes[0])
            estimates = [FocalEstimate(focal, (focal,), 0)]
        mean, sigma = np.array([(each.focal, each.sigma) for each in estimates]).T
        focal_prior = FocalPrior(mean, sigma)
        if settings.registration == "pointmaps":
            with clock.stage("registration"):
                focal = estimates[0].focal * float(layout.camera_pixel_sizes[0])
                given = align_pointmaps(pointmaps, layout.sizes, focal)
            if given is None:
                return None, {}, {}
    if given is not None:
        with clock.stage("relative poses"):
            focals = given.focal * layout.longer_sides
            views = relative_poses(positions, pairs, focals[layout.camera_ids], seed)
        with clock.stage("registration"):
            state = start_from_known_cameras(
                given, keypoints, views, layout, min_angle, device, fix_focal, focal_prior
            )
            failures = register_others(state, views, min_angle, device, seed)
        return state, views, failures
    if depths is not None:
        focal = default_focal(float(layout.longer_sides[0]))
        if settings.initial_focal is not None:
            focal = settings.initial_focal / float(layout.camera_pixel_sizes[0])
        elif fix_focal and focal_prior is not None:
            focal = float(focal_prior.mean[0])
        with clock.stage("registration"):
            state = start_from_depth(
                depths, keypoints, positions, pairs, layout, focal, min_angle, device, seed,
                fix_focal, focal_prior,
            )  # fmt: skip
        with clock.stage("relative poses"):
            views = relative_poses(positions, pairs, state.focal[layout.camera_ids], seed)
        share = float(state.focal[0] / layout.longer_sides[0])
        # Maps of another kind than they are said to be bend space, which a wild focal length makes up for.
        wild = settings.initial_focal is None and not PLAUSIBLE[0] < share < PLAUSIBLE[1]
        if wild or state.registered.sum() < 2:
            return None, {}, {}
        with clock.stage("registration"):
            failures = register_others(state, views, min_angle, device, seed)
        return state, views, failures
    with clock.stage("focal length"):
        if settings.initial_focal is not None:
            waiting = [settings.initial_focal / layout.camera_pixel_sizes]
        elif focal_prior is not None and fix_focal:
            waiting = [focal_prior.mean]
        elif fix_focal:
            waiting = [np.array([prior_focal(side) for side in layout.longer_sides.tolist()])]
        elif estimates is not None:
            waiting = list(joint_starts(estimates))
        else:
            waiting = list(focal_starts(positions, pairs, layout, seed))
    if len(waiting) > 1:
        of_first = [start[0] * layout.camera_pixel_sizes[0] for start in waiting]
        logger.warning(
            "The pairs of photos do not agree on a focal length;"
            f" starting from {', '.join(f'{start:.0f}' for start in of_first)} pixels."
        )
    best: tuple[tuple[int, int], SfmState, dict[tuple[int, int], TwoView], dict[int, str]] | None = None
    restarted = False
    while waiting:
        focal = waiting.pop(0)
        with clock.stage("relative poses"):
            views = relative_poses(positions, pairs, focal[layout.camera_ids], seed)
        if not views:
            continue
        with clock.stage("tracks"):
            tracks = build_tracks(keypoints, [view.matches for view in views.values()])
            state = SfmState.start(tracks, layout, focal, fix_focal, focal_prior)
        with clock.stage("registration"):
            failures: dict[int, str] = {}
            if settings.registration == "chain":
                register_chain(state, views, min_angle, device)
            elif settings.registration == "batches":
                failures = register_batches(state, views, min_angle, device, seed)
            else:
                failures = register_incremental(state, views, min_angle, device, seed)
        if state.registered.sum() < 2:
            continue
        merit = int(state.registered.sum()), int(state.inlier.sum())
        if best is None or merit > best[0]:
            best = merit, state, views, failures
        if not waiting and not restarted:
            change = np.abs(np.log(best[1].focal / best[1].initial_focal)).max()
            restarted = True
            if change > np.log(RESTART_FACTOR):
                waiting.append(best[1].focal)
    if best is None:
        return None, {}, {}
    return best[1:]
