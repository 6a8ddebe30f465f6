"""From the working scene to the finished one, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import SharedPinhole
from nope_splat.geometry.rigid import invert
from nope_splat.io.images import PhotoFolder, read_photo
from nope_splat.matching import Keypoints
from nope_splat.scene.reconstruction import SparseScene
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.sfm.camera_groups import PhotoLayout
from nope_splat.sfm.initialization.select import RESTART_FACTOR
from nope_splat.sfm.state import WorkingScene
from nope_splat.utils.progress import say
from nope_splat.utils.typing import Indices

MAX_FOCAL_UNCERTAINTY = RESTART_FACTOR - 1
"""Three standard deviations of a focal length that the photographs determine, as a share of it."""
NEGLIGIBLE_DISTORTION = 0.1
"""Distortion that moves no place by as many feature pixels is left out: many tools take none."""


def finish(
    scene: WorkingScene,
    folder: PhotoFolder,
    layout: PhotoLayout,
    held_out: NDArray[np.bool_],
    keypoints: Sequence[Keypoints],
    graph: MatchGraph,
) -> tuple[SparseScene, list[Indices]]:
    """Bring a scene to full-resolution pixels.

    Args:
        scene: The adjusted scene.
        folder: The photographs.
        layout: Which camera took which photograph, and the pixels of its keypoints.
        held_out: Photographs kept for evaluation. (N,).
        keypoints: Keypoints of each photograph.
        graph: The match graph.

    Returns:
        The finished scene, points still without colors; the point of each keypoint of each photograph, -1
        for none.
    """
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
        noise=scene.sigma[rows] * layout.pixel_sizes[photo_ids],
        resections=none,
        failures={},
        graph=graph,
        seconds={},
        focal_held=scene.hold_focal,
    )
    return sparse, points_of_keypoints


def point_colors(folder: PhotoFolder, scene: SparseScene, layout: PhotoLayout) -> NDArray[np.uint8]:
    """Mean color of each point over its observations.

    Args:
        folder: The photographs.
        scene: Points and observations.
        layout: The sizes at which the photographs are read.

    Returns:
        RGB. (P, 3).
    """
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


def focal_notice(scene: WorkingScene, flat: bool, layout: PhotoLayout, uncertainty: float) -> str:
    """What the user should know about the focal length, if anything.

    Args:
        scene: The adjusted scene.
        flat: Whether homographies explain nearly all matches.
        layout: Which camera took which photograph.
        uncertainty: Standard deviation of the focal length, as a share of it.
    """
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


def tell(scene: SparseScene) -> None:
    """Tell the outcome, and name the photographs that are left out.

    Args:
        scene: The finished scene.
    """
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
