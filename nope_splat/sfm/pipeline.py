"""From a folder of images to a sparse scene: every stage in order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.depth import DepthMap, depths_key, find_depths
from nope_splat.errors import NopeSplatError
from nope_splat.io.fingerprint import content_key
from nope_splat.io.images import ImageFolder, cameras_of_images
from nope_splat.matching import PairMatches
from nope_splat.matching.database import MatchDatabase, find_matches, matches_key
from nope_splat.scene.reconstruction import Reconstruction, normalize
from nope_splat.scene.tracks import match_graph
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.diagnostics import failure_reasons, require_matches, training_groups
from nope_splat.sfm.global_refinement import ROUNDS, refine
from nope_splat.sfm.initialization.degeneracy import is_planar_or_rotation, is_pure_rotation
from nope_splat.sfm.initialization.focal import within_cameras
from nope_splat.sfm.initialization.known_cameras import KnownCameras, prefer_known_cameras
from nope_splat.sfm.initialization.pointmap_fusion import fuse_pointmap_depths
from nope_splat.sfm.initialization.select import register_group
from nope_splat.sfm.options import ReconstructionSettings
from nope_splat.sfm.registration.incremental import register_others
from nope_splat.sfm.registration.resection import resect_held_out
from nope_splat.sfm.result import MAX_FOCAL_UNCERTAINTY, finish, focal_notice, point_colors, tell
from nope_splat.sfm.retriangulation import rebuild_tracks
from nope_splat.sfm.state import SfmState
from nope_splat.utils.cache import Cache
from nope_splat.utils.ranges import check_ranges
from nope_splat.utils.stopwatch import Stopwatch
from nope_splat.utils.typing import Array

logger = logging.getLogger(__name__)

STAGE = "scene"
POSSIBLE_FOCAL = (0.1, 20.0)
"""Shortest and longest focal length that a lens may have, as a share of the longer side."""


def reconstruct(
    folder: ImageFolder,
    held_out: Sequence[str] = (),
    settings: ReconstructionSettings | None = None,
    cache_dir: Path | None = None,
) -> Reconstruction:
    """Reconstruct cameras and track points.

    Args:
        folder: The images.
        held_out: Names of images kept for evaluation. They are matched, but their matches serve only
            to register them against the finished points.
        settings: How to do it.
        cache_dir: Folder for matches and finished scenes, keyed by content and settings.

    Returns:
        The scene; images that could not be registered are in its `failures`.

    Raises:
        NopeSplatError: If a setting is out of range, or nothing can be reconstructed, with the reason.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from nope_splat.demo.scene import render_demo_scene
        >>> from nope_splat.io.images import find_images
        >>> with TemporaryDirectory() as folder:
        ...     images = find_images(render_demo_scene(Path(folder), num_images=6, size=(320, 240)))
        ...     scene = reconstruct(images)
        >>> print(f"{scene.registered.sum()} of {len(scene.image_names)} images are registered")
        6 of 6 images are registered
        >>> bool(scene.reprojection_errors().mean() < 1.0)  # pixels
        True
    """
    settings = settings or ReconstructionSettings()
    check_ranges(settings)
    names = tuple(image.name for image in folder.images)
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise NopeSplatError(
            "name-mismatch", f"the held-out photo {unknown[0]} is not in {folder.root}; check its name"
        )
    if settings.registration == "pointmaps" and settings.matcher != "dust3r":
        raise NopeSplatError(
            "conflicting-options",
            f"registration pointmaps needs pointmaps, and {settings.matcher} makes none; set matcher"
            " to dust3r",
        )
    camera_ids = cameras_of_images(folder.images, settings.one_camera_per)
    if camera_ids.any():
        for asked, what in (
            (settings.initial_focal is not None, "initial-focal is"),
            (settings.registration in ("depth", "pointmaps"), f"registration {settings.registration} takes"),
        ):
            if asked:
                raise NopeSplatError(
                    "invalid-option",
                    f"{what} one focal length, but the photos are of several sizes or folders and so of"
                    " several cameras; leave it out",
                )
    if settings.adjustment_device == "cuda" and not torch.cuda.is_available():
        raise NopeSplatError(
            "missing-device", "adjustment-device is cuda, but torch finds no GPU here; choose cpu"
        )

    longer_side = max(max(image.width, image.height) for image in folder.images)
    if settings.initial_focal is not None:
        shortest, longest = (share * longer_side for share in POSSIBLE_FOCAL)
        if not shortest <= settings.initial_focal <= longest:
            raise NopeSplatError(
                "invalid-option",
                f"initial-focal is {settings.initial_focal:g}, but photos of {longer_side} pixels have"
                f" focal lengths from {shortest:g} to {longest:g} pixels; it is not in millimeters",
            )

    is_held_out = np.isin(names, list(held_out))
    given = KnownCameras.read(settings.cameras, names, is_held_out, camera_ids) if settings.cameras else None

    # Images whose depth is asked for.
    telling = [
        image
        for image, out in zip(folder.images, is_held_out, strict=True)
        if not out and settings.registration == "depth" and settings.matcher != "dust3r" and given is None
    ]
    matches_id = scene_id = ""
    cache = Cache(cache_dir) if cache_dir else None
    if cache:
        matches_id = matches_key(folder, settings)
        # Of given cameras, their content counts and not the file's name.
        values = asdict(settings) | {"cameras": given and given.to_plain()}
        values["depth"] = depths_key(telling, settings.depth) if telling else None
        del values["device"]  # which changes nothing but rounding errors
        scene_id = content_key((), {"matches": matches_id, "held_out": sorted(held_out), "settings": values})
        scene = cache.load(STAGE, scene_id, Reconstruction.from_arrays)
        if scene is not None:
            logger.info("Using the cached reconstruction.")
            tell(scene)
            return scene
    clock = Stopwatch()
    with clock.stage("matching"):
        matches = find_matches(folder, settings, cache, matches_id)
    depths = None
    if telling:
        with clock.stage("depth"):
            found = find_depths(telling, settings.depth, cache_dir)
        depths = {names.index(image.name): one for image, one in zip(telling, found, strict=True)}
    elif settings.registration == "depth" and given is None and matches.pointmaps is not None:
        depths = fuse_pointmap_depths(matches.pointmaps.without(is_held_out))
    scene = reconstruct_from_matches(folder, is_held_out, matches, settings, clock, given, depths)
    if cache:
        cache.store(STAGE, scene_id, scene.to_arrays())
    tell(scene)
    return scene


def reconstruct_from_matches(
    folder: ImageFolder,
    held_out: NDArray[np.bool_],
    matches: MatchDatabase,
    settings: ReconstructionSettings,
    clock: Stopwatch | None = None,
    given: KnownCameras | None = None,
    depths: Mapping[int, DepthMap] | None = None,
    fix_focal: bool = False,
) -> Reconstruction:
    """Reconstruct cameras and track points from verified matches.

    A flat scene that leaves the focal length open would follow any: it is done again with that of the prior
    held. So is any scene that leaves the user's focal length open, with that one held.

    Args:
        folder: The images.
        held_out: Images kept for evaluation. (N,).
        matches: Verified matches; those with held-out images serve only for their resection.
        settings: How to do it.
        clock: Adds its seconds to those measured here.
        given: Cameras to start from, if any.
        depths: Depth of training images to start from, if any, by their indices.
        fix_focal: Whether the focal length stays that of the settings or, without one, of the prior.

    Returns:
        The scene.

    Raises:
        NopeSplatError: If nothing can be reconstructed, with the reason.
    """
    clock = clock or Stopwatch()
    keypoints, pairs = matches.keypoints, matches.pairs
    names = tuple(image.name for image in folder.images)
    sizes = np.array([(image.width, image.height) for image in folder.images], dtype=np.int64)
    layout = CameraGroups.of(sizes, cameras_of_images(folder.images, settings.one_camera_per), keypoints)
    training_pairs = [pair for pair in pairs if not held_out[pair.first] and not held_out[pair.second]]
    graph = match_graph(len(names), training_pairs)
    groups = training_groups(graph)
    if given is not None:  # what has a pose need not match
        groups = [given.join(groups)]
    require_matches(names, held_out, keypoints, groups, settings.min_matches)
    positions = [layout.from_center(one.xy, image) for image, one in enumerate(keypoints)]
    if layout.num_cameras > 1:
        counts = np.bincount(layout.camera_ids).tolist()
        logger.info(f"The photos are of {layout.num_cameras} cameras, which took {counts} of them.")

    pointmaps = None
    if matches.pointmaps is not None:
        pointmaps = matches.pointmaps.without(held_out)

    tried = False
    for group in groups:
        members = [pair for pair in training_pairs if pair.first in group]
        flat = bool(members) and is_planar_or_rotation(members)
        if given is None and flat and _is_pure_rotation(positions, members, layout):
            continue
        tried = True
        state, views, failures = register_group(
            keypoints, positions, members, layout, settings, clock, given, depths, pointmaps, fix_focal
        )
        if state is not None:
            break
    else:
        if tried and given is None and settings.registration in ("depth", "pointmaps"):
            raise NopeSplatError("inconsistent-depth", _contradicted(settings))
        raise NopeSplatError(
            "no-baseline",
            "the photos match, but no two of them were taken from places far enough apart to tell depth;"
            " walk around the subject instead of turning on the spot",
        )
    min_angle, device = settings.min_triangulation_angle, settings.adjustment_device

    def rebuilt(state: SfmState, extra: Sequence[PairMatches] = ()) -> SfmState:
        with clock.stage("tracks"):
            return rebuild_tracks(state, keypoints, positions, members, layout, min_angle, extra)

    left_out = [view.matches for pair, view in views.items() if not state.registered[list(pair)].all()]
    if left_out:  # the rebuilt tracks may show them what the first ones did not
        second_try = rebuilt(state, left_out)
        with clock.stage("registration"):
            failures = register_others(second_try, views, min_angle, device, settings.seed)
        state = second_try
    state = rebuilt(state)
    with clock.stage("final adjustment"):
        failures |= refine(
            state, min_angle, settings.refine_principal_point, settings.refine_radial_distortion, device
        )
        if given is not None:
            prefer_known_cameras(state, given, ROUNDS[-1], min_angle, device)
    lens = state.offset.any(axis=1), state.radial.any(axis=1)
    uncertainty = state.focal_uncertainty(*lens, device)
    doubtful = given is None and (flat or settings.initial_focal is not None)
    if doubtful and not fix_focal and uncertainty > MAX_FOCAL_UNCERTAINTY / 3:
        return reconstruct_from_matches(
            folder, held_out, matches, settings, clock, depths=depths, fix_focal=True
        )
    if state.registered.sum() < 2:
        raise NopeSplatError(
            "no-cameras",
            "no camera poses that agree with the photos were found; give more photos, with more"
            " overlap between neighbors",
        )

    sparse, points_of_keypoints = finish(state, folder, layout, held_out, keypoints, graph)
    with clock.stage("held-out photos"):
        sparse, resection_failures = resect_held_out(sparse, matches, points_of_keypoints, layout)
    unregistered = np.flatnonzero(~sparse.registered & ~held_out)
    reasons = failure_reasons(names, unregistered, groups, group, failures)
    with clock.stage("colors"):
        colors = point_colors(folder, sparse, layout)
    notice = focal_notice(state, flat, layout, uncertainty)
    failures_by_name = reasons | resection_failures
    return normalize(
        replace(sparse, colors=colors, failures=failures_by_name, notice=notice, seconds=clock.seconds)
    )


def _contradicted(settings: ReconstructionSettings) -> str:
    """What to say where no two images could be registered by what is told of their depth."""
    source = f"the depth maps in {settings.depth.maps}"
    advice = "check that they belong to these photos and that depth.kind is theirs"
    if settings.matcher == "dust3r":
        source, advice = "the pointmaps", "give more photos, with more overlap"
    elif settings.depth.maps is None:
        source, advice = f"the depth maps of {settings.depth.model}", "take another depth.model"
    return f"{source} contradict the matches of all photos; {advice}, or another registration"


def _is_pure_rotation(positions: Sequence[Array], pairs: Sequence[PairMatches], layout: CameraGroups) -> bool:
    """Whether every camera that tells, by pairs of its own, only turned."""
    told = [
        is_pure_rotation(positions, own, longer_side)
        for own, longer_side in zip(within_cameras(pairs, layout), layout.longer_sides.tolist(), strict=True)
        if own
    ]
    return bool(told) and all(told)
