"""From a folder of photographs to a sparse scene: every stage in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.cache import Cache, content_key
from nope_splat.camera import SharedPinhole
from nope_splat.depth import DepthMap, DepthSettings, depths_key, find_depths
from nope_splat.errors import UserError
from nope_splat.images import PhotoFolder, cameras_of_photos, read_photo
from nope_splat.matching import Keypoints, MatchingSettings, PairMatches, Pointmaps
from nope_splat.progress import say
from nope_splat.ranges import POSITIVE, Range, check_ranges
from nope_splat.tracks import MatchGraph, Observations, build_tracks, match_graph

from .batches import register_batches
from .canonical import canonical_depths, pointmap_focal
from .chain import register_chain
from .degeneracy import turned_on_the_spot, without_relief
from .depth_start import default_focal, start_from_depth
from .focal import focal_starts, prior_focal, within_cameras
from .given import GivenCameras, keep_good_cameras, start_from_cameras
from .groups import failure_reasons, require_matches, training_groups
from .layout import PhotoLayout
from .matches import FolderMatches, find_matches, matches_key
from .pointmap_start import align_pointmaps
from .refine import ROUNDS, refine
from .register import register_incremental, register_others
from .resection import resect_held_out
from .retrack import rebuild_tracks
from .scene import SparseScene, normalise
from .two_view import TwoView, relative_poses
from .working import Array, Indices, WorkingScene, invert

STAGE = "scene"
RESTART_FACTOR = 1.1
"""Change of the focal length during registration from which it pays to start again with the better one."""
MAX_FOCAL_UNCERTAINTY = RESTART_FACTOR - 1
"""Three standard deviations of a focal length that the photographs determine, as a share of it."""
POSSIBLE_FOCAL = (0.1, 20.0)
"""Shortest and longest focal length that a lens may have, as a share of the longer side."""
NEGLIGIBLE_DISTORTION = 0.1
"""Distortion that moves no place by as many feature pixels is left out: many tools take none."""


@dataclass(frozen=True)
class ReconstructionSettings(MatchingSettings):
    """How photographs are matched and reconstructed."""

    registration: Literal["incremental", "batches", "chain", "depth", "pointmaps"] = "incremental"
    """How poses are found: one photograph after another by the points it sees; batch by batch, outward from
    the photograph with most partners (for hundreds); by chaining relative poses along the maximum spanning
    tree of the match graph (for thin overlap); by the depth of single photographs from a network along that
    tree, from a field of view of 60 degrees (the paper's initialisation; see depth.model); or by bringing the
    pointmaps of all pairs into one world, as DUSt3R does (needs the matcher dust3r, which see for its terms:
    for photographs whose surfaces or number give too few matches)."""
    depth: DepthSettings = field(default_factory=DepthSettings)
    """Where depth of single photographs comes from."""
    one_camera_per: Literal["size", "folder"] = "size"
    """Which photographs share a camera, its focal length, principal point and distortion: those of one size
    (portrait or landscape), or those of one size in one sub-folder."""
    cameras: Path | None = None
    """Cameras to start from instead of from nothing: a `transforms.json`, or a folder with a COLMAP model.
    They are adjusted where the photographs contradict them; photographs that it lacks are registered."""
    initial_focal: Annotated[float | None, POSITIVE] = None
    """Focal length to start from, in pixels of the full-resolution photographs; estimated if not given, but
    with registration depth that of a field of view of 60 degrees."""
    refine_principal_point: bool = True
    """Whether to adjust the principal point, where all photographs of a camera have the same orientation."""
    refine_radial_distortion: bool = True
    """Whether to adjust radial distortion, where it can be determined."""
    min_triangulation_angle: Annotated[float, Range(0, 90, open=True)] = 1.5
    """Smallest angle, in degrees, between the rays that make a track point."""
    adjustment_device: Literal["cpu", "cuda"] = "cpu"
    """Where bundle adjustment runs; a GPU pays for hundreds of photographs only."""


class Stopwatch:
    """Wall time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside.

        Args:
            name: The stage, to which the time is added.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def reconstruct(
    folder: PhotoFolder,
    held_out: Sequence[str] = (),
    settings: ReconstructionSettings | None = None,
    cache_dir: Path | None = None,
) -> SparseScene:
    """Reconstruct cameras and track points.

    Args:
        folder: The photographs.
        held_out: Names of photographs kept for evaluation. They are matched, but their matches serve only
            to register them against the finished points.
        settings: How to do it.
        cache_dir: Folder for matches and finished scenes, keyed by content and settings.

    Returns:
        The scene; photographs that could not be registered are in its `failures`.

    Raises:
        UserError: If a setting is out of range, or nothing can be reconstructed, with the reason.
    """
    settings = settings or ReconstructionSettings()
    check_ranges(settings)
    names = tuple(photo.name for photo in folder.photos)
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise UserError(f"the held-out photograph {unknown[0]} is not in {folder.root}; check its name")
    if settings.registration == "pointmaps" and settings.matcher != "dust3r":
        raise UserError(
            f"registration pointmaps needs pointmaps, and {settings.matcher} makes none; set matcher"
            " to dust3r"
        )
    camera_ids = cameras_of_photos(folder.photos, settings.one_camera_per)
    if camera_ids.any():
        for asked, what in (
            (settings.initial_focal is not None, "initial-focal is"),
            (settings.registration in ("depth", "pointmaps"), f"registration {settings.registration} takes"),
        ):
            if asked:
                raise UserError(
                    f"{what} one focal length, but the photographs are of several sizes or folders and so of"
                    " several cameras; leave it out"
                )
    if settings.adjustment_device == "cuda" and not torch.cuda.is_available():
        raise UserError("adjustment-device is cuda, but torch finds no GPU here; choose cpu")

    longer_side = max(max(photo.width, photo.height) for photo in folder.photos)
    if settings.initial_focal is not None:
        shortest, longest = (share * longer_side for share in POSSIBLE_FOCAL)
        if not shortest <= settings.initial_focal <= longest:
            raise UserError(
                f"initial-focal is {settings.initial_focal:g}, but photographs of {longer_side} pixels have"
                f" focal lengths from {shortest:g} to {longest:g} pixels; it is not in millimetres"
            )

    is_held_out = np.isin(names, list(held_out))
    given = GivenCameras.read(settings.cameras, names, is_held_out, camera_ids) if settings.cameras else None

    # Photographs whose depth is asked for.
    telling = [
        photo
        for photo, out in zip(folder.photos, is_held_out, strict=True)
        if not out and settings.registration == "depth" and settings.matcher != "dust3r" and given is None
    ]
    matches_id = scene_id = ""
    cache = Cache(cache_dir) if cache_dir else None
    if cache:
        matches_id = matches_key(folder, settings)
        # Of given cameras, their content counts and not the file's name.
        values = asdict(settings) | {"cameras": given and given.to_plain()}
        values["depth"] = depths_key(telling, settings.depth) if telling else None
        scene_id = content_key((), {"matches": matches_id, "held_out": sorted(held_out), "settings": values})
        stored = cache.load(STAGE, scene_id)
        if stored is not None:
            say("Using the cached reconstruction.")
            scene = SparseScene.from_arrays(stored)
            _report(scene)
            return scene
    clock = Stopwatch()
    with clock.stage("matching"):
        matches = find_matches(folder, settings, cache, matches_id)
    depths = None
    if telling:
        with clock.stage("depth"):
            found = find_depths(telling, settings.depth, cache_dir)
        depths = {names.index(photo.name): one for photo, one in zip(telling, found, strict=True)}
    elif settings.registration == "depth" and given is None and matches.pointmaps is not None:
        depths = canonical_depths(matches.pointmaps.without(is_held_out))
    scene = reconstruct_from_matches(folder, is_held_out, matches, settings, clock, given, depths)
    if cache:
        cache.store(STAGE, scene_id, scene.to_arrays())
    _report(scene)
    return scene


def reconstruct_from_matches(
    folder: PhotoFolder,
    held_out: NDArray[np.bool_],
    matches: FolderMatches,
    settings: ReconstructionSettings,
    clock: Stopwatch | None = None,
    given: GivenCameras | None = None,
    depths: Mapping[int, DepthMap] | None = None,
    hold_focal: bool = False,
) -> SparseScene:
    """Reconstruct cameras and track points from verified matches.

    A flat scene that leaves the focal length open would follow any: it is done again with that of the prior
    held. So is any scene that leaves the user's focal length open, with that one held.

    Args:
        folder: The photographs.
        held_out: Photographs kept for evaluation. (N,).
        matches: Verified matches; those with held-out photographs serve only for their resection.
        settings: How to do it.
        clock: Adds its seconds to those measured here.
        given: Cameras to start from, if any.
        depths: Depth of training photographs to start from, if any, by their indices.
        hold_focal: Whether the focal length stays that of the settings or, without one, of the prior.

    Returns:
        The scene.

    Raises:
        UserError: If nothing can be reconstructed, with the reason.
    """
    clock = clock or Stopwatch()
    keypoints, pairs = matches.keypoints, matches.pairs
    names = tuple(photo.name for photo in folder.photos)
    sizes = np.array([(photo.width, photo.height) for photo in folder.photos], dtype=np.int64)
    layout = PhotoLayout.of(sizes, cameras_of_photos(folder.photos, settings.one_camera_per), keypoints)
    training_pairs = [pair for pair in pairs if not held_out[pair.first] and not held_out[pair.second]]
    graph = match_graph(len(names), training_pairs)
    groups = training_groups(graph)
    if given is not None:  # what has a pose need not match
        groups = [given.join(groups)]
    require_matches(names, held_out, keypoints, groups, settings.min_matches)
    positions = [layout.from_centre(one.xy, photo) for photo, one in enumerate(keypoints)]
    if layout.num_cameras > 1:
        counts = np.bincount(layout.camera_ids).tolist()
        say(f"The photographs are of {layout.num_cameras} cameras, which took {counts} of them.")

    pointmaps = None
    if matches.pointmaps is not None:
        pointmaps = matches.pointmaps.without(held_out)

    for group in groups:
        members = [pair for pair in training_pairs if pair.first in group]
        flat = bool(members) and without_relief(members)
        if given is None and flat and _turned(positions, members, layout):
            continue
        scene, views, failures = _reconstruct_group(
            keypoints, positions, members, layout, settings, clock, given, depths, pointmaps, hold_focal
        )
        if scene is not None:
            break
    else:
        raise UserError(
            "the photographs match, but no two of them were taken from places far enough apart to tell depth;"
            " walk around the subject instead of turning on the spot"
        )
    min_angle, device = settings.min_triangulation_angle, settings.adjustment_device

    def rebuilt(scene: WorkingScene, extra: Sequence[PairMatches] = ()) -> WorkingScene:
        with clock.stage("tracks"):
            return rebuild_tracks(scene, keypoints, positions, members, layout, min_angle, extra)

    left_out = [view.matches for pair, view in views.items() if not scene.registered[list(pair)].all()]
    if left_out:  # the rebuilt tracks may show them what the first ones did not
        second_try = rebuilt(scene, left_out)
        with clock.stage("registration"):
            failures = register_others(second_try, views, min_angle, device, settings.seed)
        scene = second_try
    scene = rebuilt(scene)
    with clock.stage("final adjustment"):
        failures |= refine(
            scene, min_angle, settings.refine_principal_point, settings.refine_radial_distortion, device
        )
        if given is not None:
            keep_good_cameras(scene, given, ROUNDS[-1], min_angle, device)
    lens = scene.offset.any(axis=1), scene.radial.any(axis=1)
    uncertainty = scene.focal_uncertainty(*lens, device)
    doubtful = given is None and (flat or settings.initial_focal is not None)
    if doubtful and not hold_focal and uncertainty > MAX_FOCAL_UNCERTAINTY / 3:
        return reconstruct_from_matches(
            folder, held_out, matches, settings, clock, depths=depths, hold_focal=True
        )
    if scene.registered.sum() < 2:
        raise UserError(
            "no camera poses that agree with the photographs were found; give more photographs, with more"
            " overlap between neighbours"
        )

    sparse, points_of_keypoints = _finish(scene, folder, layout, held_out, keypoints, graph)
    with clock.stage("held-out photographs"):
        sparse, resection_failures = resect_held_out(sparse, matches, points_of_keypoints, layout)
    unregistered = np.flatnonzero(~sparse.registered & ~held_out)
    reasons = failure_reasons(names, unregistered, groups, group, failures)
    with clock.stage("colours"):
        colors = _point_colors(folder, sparse, layout)
    notice = _focal_notice(scene, flat, layout, uncertainty)
    failures_by_name = reasons | resection_failures
    return normalise(
        replace(sparse, colors=colors, failures=failures_by_name, notice=notice, seconds=clock.seconds)
    )


def _reconstruct_group(
    keypoints: Sequence[Keypoints],
    positions: Sequence[Array],
    pairs: Sequence[PairMatches],
    layout: PhotoLayout,
    settings: ReconstructionSettings,
    clock: Stopwatch,
    given: GivenCameras | None,
    depths: Mapping[int, DepthMap] | None,
    pointmaps: Pointmaps | None,
    hold_focal: bool,
) -> tuple[WorkingScene | None, dict[tuple[int, int], TwoView], dict[int, str]]:
    """Register one group of photographs, from the start that goes furthest; None if no start does.

    Also returns the relative poses at that start, and why photographs were left out.
    """
    min_angle, device, seed = settings.min_triangulation_angle, settings.adjustment_device, settings.seed
    if pointmaps is not None:
        group = np.unique([(pair.first, pair.second) for pair in pairs])
        pointmaps = pointmaps.without(~np.isin(np.arange(len(layout.sizes)), group))
    if given is None and pointmaps is not None and settings.registration == "pointmaps":
        with clock.stage("registration"):
            focal = settings.initial_focal or pointmap_focal(pointmaps, layout.sizes).focal
            given = align_pointmaps(pointmaps, layout.sizes, focal)
        if given is None:
            return None, {}, {}
    if given is not None:
        with clock.stage("relative poses"):
            focals = given.focal * layout.longer_sides
            views = relative_poses(positions, pairs, focals[layout.camera_ids], seed)
        with clock.stage("registration"):
            scene = start_from_cameras(given, keypoints, views, layout, min_angle, device)
            failures = register_others(scene, views, min_angle, device, seed)
        return scene, views, failures
    if depths is not None:
        focal = default_focal(float(layout.longer_sides[0]))
        if settings.initial_focal is not None:
            focal = settings.initial_focal / float(layout.camera_pixel_sizes[0])
        with clock.stage("registration"):
            scene = start_from_depth(
                depths, keypoints, positions, pairs, layout, focal, min_angle, device, seed
            )
        with clock.stage("relative poses"):
            views = relative_poses(positions, pairs, scene.focal[layout.camera_ids], seed)
        if scene.registered.sum() < 2:
            return None, {}, {}
        with clock.stage("registration"):
            failures = register_others(scene, views, min_angle, device, seed)
        return scene, views, failures
    with clock.stage("focal length"):
        if settings.initial_focal is not None:
            waiting = [settings.initial_focal / layout.camera_pixel_sizes]
        elif hold_focal:
            waiting = [np.array([prior_focal(side) for side in layout.longer_sides.tolist()])]
        elif pointmaps is not None and layout.num_cameras == 1:
            estimate = pointmap_focal(pointmaps, layout.sizes, float(layout.camera_pixel_sizes[0]))
            waiting = [np.array([start]) for start in estimate.starts]
        else:
            waiting = list(focal_starts(positions, pairs, layout, seed))
    if len(waiting) > 1:
        of_first = [start[0] * layout.camera_pixel_sizes[0] for start in waiting]
        say(
            "The pairs of photographs do not agree on a focal length;"
            f" starting from {', '.join(f'{start:.0f}' for start in of_first)} pixels."
        )
    best: tuple[tuple[int, int], WorkingScene, dict[tuple[int, int], TwoView], dict[int, str]] | None = None
    restarted = False
    while waiting:
        focal = waiting.pop(0)
        with clock.stage("relative poses"):
            views = relative_poses(positions, pairs, focal[layout.camera_ids], seed)
        if not views:
            continue
        with clock.stage("tracks"):
            tracks = build_tracks(keypoints, [view.matches for view in views.values()])
            scene = WorkingScene.start(tracks, layout, focal, hold_focal)
        with clock.stage("registration"):
            failures: dict[int, str] = {}
            if settings.registration == "chain":
                register_chain(scene, views, min_angle, device)
            elif settings.registration == "batches":
                failures = register_batches(scene, views, min_angle, device, seed)
            else:
                failures = register_incremental(scene, views, min_angle, device, seed)
        if scene.registered.sum() < 2:
            continue
        merit = int(scene.registered.sum()), int(scene.inlier.sum())
        if best is None or merit > best[0]:
            best = merit, scene, views, failures
        if not waiting and not restarted:
            change = np.abs(np.log(best[1].focal / best[1].initial_focal)).max()
            restarted = True
            if change > np.log(RESTART_FACTOR):
                waiting.append(best[1].focal)
    if best is None:
        return None, {}, {}
    return best[1:]


def _turned(positions: Sequence[Array], pairs: Sequence[PairMatches], layout: PhotoLayout) -> bool:
    """Whether every camera that tells, by pairs of its own, only turned."""
    told = [
        turned_on_the_spot(positions, own, longer_side)
        for own, longer_side in zip(within_cameras(pairs, layout), layout.longer_sides.tolist(), strict=True)
        if own
    ]
    return bool(told) and all(told)


def _focal_notice(scene: WorkingScene, flat: bool, layout: PhotoLayout, uncertainty: float) -> str:
    """What the user should know about the focal length, if anything."""
    focals = (scene.focal * layout.camera_pixel_sizes).tolist()
    focal = f"{' and '.join(f'{each:.0f}' for each in focals)} pixels"
    mend = "set initial-focal if you know it, or add photographs from other directions"
    if scene.hold_focal:
        why = "look straight at one flat surface, which does" if flat else "do"
        return f"the photographs {why} not show the focal length, which is taken to be {focal}; {mend}"
    if uncertainty > MAX_FOCAL_UNCERTAINTY / 3:
        return f"the photographs hardly show the focal length, which seems to be {focal}; {mend}"
    if flat:
        return (
            "the photographs show hardly more than one flat surface; still, they determine the focal length"
            f" to {100 * uncertainty:.2g} %"
        )
    return ""


def _finish(
    scene: WorkingScene,
    folder: PhotoFolder,
    layout: PhotoLayout,
    held_out: NDArray[np.bool_],
    keypoints: Sequence[Keypoints],
    graph: MatchGraph,
) -> tuple[SparseScene, list[Indices]]:
    """The finished scene in full-resolution pixels, and the point of each keypoint (-1 for none)."""
    rows = np.flatnonzero(scene.inlier)
    point_of_track = np.cumsum(scene.has_point) - 1
    point_ids, photo_ids = point_of_track[scene.track_ids[rows]], scene.photo_ids[rows]
    keypoint_ids = scene.keypoint_ids[rows]
    points_of_keypoints = []
    for photo, one in enumerate(keypoints):
        mine = photo_ids == photo
        table = np.full(len(one.xy), -1)
        table[keypoint_ids[mine]] = point_ids[mine]
        points_of_keypoints.append(table)
    points = scene.points[scene.has_point]
    cameras = []
    for number, pixel_size in enumerate(layout.camera_pixel_sizes.tolist()):
        (x, y), (k1, k2) = (scene.offset[number] * pixel_size).tolist(), scene.radial[number].tolist()
        camera = SharedPinhole(float(scene.focal[number]) * pixel_size, (x, y), (k1, k2))
        size = layout.sizes[layout.camera_ids == number].max(axis=0)
        if camera.largest_distortion(size) < NEGLIGIBLE_DISTORTION * pixel_size:
            camera = replace(camera, radial=(0.0, 0.0))
        cameras.append(camera)
    xy = scene.xy[rows] * layout.pixel_sizes[photo_ids, None] + layout.sizes[photo_ids] / 2
    none = Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    sparse = SparseScene(
        photo_names=tuple(photo.name for photo in folder.photos),
        photo_sizes=layout.sizes,
        held_out=held_out,
        registered=scene.registered.copy(),
        T_world_camera=invert(scene.T_camera_world),
        cameras=tuple(cameras),
        camera_ids=layout.camera_ids,
        points=points,
        colors=np.zeros(points.shape, np.uint8),
        observations=Observations(point_ids, photo_ids, xy),
        resections=none,
        failures={},
        graph=graph,
        seconds={},
    )
    return sparse, points_of_keypoints


def _point_colors(folder: PhotoFolder, scene: SparseScene, layout: PhotoLayout) -> NDArray[np.uint8]:
    """Mean colour of each point over its observations. (P, 3)."""
    observations = scene.observations
    total = np.zeros((len(scene.points), 3))
    for photo in np.unique(observations.photo_ids):
        mine, pixel_size = observations.photo_ids == photo, layout.pixel_sizes[photo]
        width, height = (round(side / pixel_size) for side in scene.photo_sizes[photo].tolist())
        image = read_photo(folder.photos[photo], (width, height))[..., :3]
        column, row = (observations.xy[mine] / pixel_size).astype(np.int64).T
        # A point has at most one observation in a photograph.
        total[observations.point_ids[mine]] += image[row.clip(0, height - 1), column.clip(0, width - 1)]
    count = np.bincount(observations.point_ids, minlength=len(scene.points))
    return np.rint(total / np.maximum(count, 1)[:, None]).astype(np.uint8)


def _report(scene: SparseScene) -> None:
    """Tell the outcome, and name the photographs that are left out."""
    training = ~scene.held_out
    focals = " and ".join(f"{camera.focal:.1f}" for camera in scene.cameras)
    error = float(np.median(scene.reprojection_errors()))
    say(
        f"Registered {(scene.registered & training).sum()} of {training.sum()} photographs:"
        f" focal length {focals} pixels, {len(scene.points)} points,"
        f" median reprojection error {error:.2f} pixels."
    )
    if scene.notice:
        say(f"{scene.notice[0].upper()}{scene.notice[1:]}.")
    names_of_reason: dict[str, list[str]] = {}
    for name, reason in scene.failures.items():
        names_of_reason.setdefault(reason, []).append(name)
    for reason, names in names_of_reason.items():
        say(f"Left out {', '.join(names)}: {reason}.")
