"""Start from cameras that the user has, instead of from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nope_splat.errors import UserError
from nope_splat.geometry.rigid import invert
from nope_splat.geometry.similarity import align_similarity
from nope_splat.io.cameras import NamedCamera, read_named_cameras
from nope_splat.matching import Keypoints
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.camera_groups import PhotoLayout
from nope_splat.sfm.initialization.two_view import TwoView
from nope_splat.sfm.settle import settle
from nope_splat.sfm.state import FocalPrior, WorkingScene
from nope_splat.sfm.triangulation import filter_observations
from nope_splat.utils.typing import Array, Indices, Mask

MAX_NOISE_RATIO = 1.25
"""Given cameras stay as they are while observations seem noisier with them than with adjusted ones by no
more than this factor."""


@dataclass(frozen=True)
class GivenCameras:
    """Poses of some photographs and the intrinsics of all cameras."""

    photos: Indices
    """Indices of the photographs. (G,)."""
    T_world_camera: Array
    """Camera-to-world transforms, OpenCV axes, about the origin and at most ten units from it. (G, 4, 4)."""
    focal: Array
    """Focal length of each camera as a share of the longer side. (K,)."""
    offset: Array
    """Principal points minus image center, as shares of the longer side. (K, 2)."""
    radial: Array
    """Radial distortion. (K, 2)."""

    @classmethod
    def read(cls, path: Path, names: Sequence[str], held_out: Mask, camera_ids: Indices) -> GivenCameras:
        """Read cameras, of training photographs only.

        Args:
            path: A file or folder as for `read_named_cameras`.
            names: Names of all photographs, folders included.
            held_out: Photographs kept for evaluation. (N,).
            camera_ids: Camera of each photograph. (N,).

        Returns:
            The cameras; where intrinsics differ among photographs of one camera, their medians, and those of
            all for a camera without any.

        Raises:
            UserError: If the file cannot be read, has a camera without a photograph, cameras for fewer than
                two training photographs, or all at one place.
        """
        cameras = _of_photos(read_named_cameras(path), names, path)
        photos = np.array([photo for photo in sorted(cameras) if not held_out[photo]], np.int64)
        if len(photos) < 2:
            raise UserError(
                f"{path} has cameras for {len(photos)} of the photographs to reconstruct, and a start"
                " takes two; give more cameras, or none"
            )
        T_world_camera = np.stack([cameras[photo].T_world_camera for photo in photos.tolist()])
        left, _, right = np.linalg.svd(T_world_camera[:, :3, :3])
        T_world_camera[:, :3, :3] = left @ right  # files hold rounded, and some tools scaled, rotations
        centers = T_world_camera[:, :3, 3]
        centers = centers - centers.mean(0)
        extent = float(np.linalg.norm(centers, axis=1).max())
        if not extent > 0:
            raise UserError(f"all cameras in {path} are at one place, where depth cannot be told")
        T_world_camera[:, :3, 3] = centers * (10 / extent)
        chosen = [cameras[photo] for photo in photos.tolist()]
        found = np.array([(camera.focal, *camera.offset, *camera.radial) for camera in chosen])
        intrinsics = np.tile(np.median(found, axis=0), (int(camera_ids.max()) + 1, 1))
        for camera in np.unique(camera_ids[photos]):
            intrinsics[camera] = np.median(found[camera_ids[photos] == camera], axis=0)
        return cls(photos, T_world_camera, intrinsics[:, 0], intrinsics[:, 1:3], intrinsics[:, 3:])

    def to_plain(self) -> dict[str, object]:
        """Numbers in lists, for the key of a cache."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    def join(self, groups: Sequence[Indices]) -> Indices:
        """The photographs with cameras, and all that groups of matched photographs connect with them.

        Args:
            groups: Photographs of each group.

        Returns:
            Indices of photographs, ascending.
        """
        reached = [group for group in groups if np.isin(group, self.photos).any()]
        return np.unique(np.concatenate([self.photos, *reached]))

    def place(self, scene: WorkingScene) -> None:
        """Register the photographs of a scene with these cameras.

        Args:
            scene: Changed in place.
        """
        longer_sides = scene.longer_sides
        scene.focal, scene.offset = self.focal * longer_sides, self.offset * longer_sides[:, None]
        scene.radial = self.radial
        scene.T_camera_world[self.photos] = invert(self.T_world_camera)
        scene.registered[self.photos] = True


def start_from_cameras(
    given: GivenCameras,
    keypoints: Sequence[Keypoints],
    views: Mapping[tuple[int, int], TwoView],
    layout: PhotoLayout,
    min_angle: float,
    device: str = "cpu",
    hold_focal: bool = False,
    focal_prior: FocalPrior | None = None,
) -> WorkingScene:
    """Triangulate tracks with given cameras and adjust both, coarse to fine.

    Args:
        given: The cameras.
        keypoints: Keypoints of each photograph.
        views: Verified pairs, whose matches make the tracks.
        layout: Sizes and cameras of the photographs.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        hold_focal: Whether the focal lengths stay as they are.
        focal_prior: What is known of the focal lengths, beside those of the cameras.

    Returns:
        A scene in which the photographs with cameras are registered.
    """
    tracks = build_tracks(keypoints, [view.matches for view in views.values()])
    scene = WorkingScene.start(tracks, layout, given.focal * layout.longer_sides, hold_focal, focal_prior)
    given.place(scene)
    settle(scene, min_angle, device)
    return scene


def keep_good_cameras(
    scene: WorkingScene, given: GivenCameras, max_error: float, min_angle: float, device: str = "cpu"
) -> bool:
    """Return to the given cameras, in place, unless the photographs contradict them.

    Adjustment follows the noise of the keypoints wherever it leads: exact cameras could only become worse.
    They are contradicted where observations seem much noisier with them than with adjusted cameras.

    Args:
        scene: A finished scene that started from the given cameras.
        given: The cameras.
        max_error: Largest reprojection error of an observation, feature pixels.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.

    Returns:
        Whether the cameras are the given ones.
    """
    if not scene.registered[given.photos].all():
        return False
    before = scene.snapshot()
    rows = np.flatnonzero(scene.inlier & np.isin(scene.photo_ids, given.photos))
    adjusted_noise = scene.noise(rows)
    to_given = align_similarity(scene.centers()[given.photos], given.T_world_camera[:, :3, 3])
    scene.T_camera_world = invert(to_given.apply_to_poses(invert(scene.T_camera_world)))
    scene.points = to_given.apply(scene.points)
    given.place(scene)
    others = scene.registered.copy()
    others[given.photos] = False
    scene.adjust(free_photos=others, free_focal=False, device=device)
    if scene.noise(rows) < MAX_NOISE_RATIO * adjusted_noise:
        filter_observations(scene, max_error, min_angle)
        return True
    scene.restore(before)
    return False


def _of_photos(
    cameras: Mapping[str, NamedCamera], names: Sequence[str], source: Path
) -> dict[int, NamedCamera]:
    """Cameras by index of their photograph, found by its name with or without folders."""
    places = {name: index for index, name in enumerate(names)}
    short = [PurePosixPath(name).name for name in names]
    if len(set(short)) == len(short):
        places |= {name: index for index, name in enumerate(short)}
    for name in cameras:
        if name not in places:
            raise UserError(
                f"{source} has a camera for {name}, but there is no photograph of that name; remove the"
                " camera or add the photograph"
            )
    return {places[name]: camera for name, camera in cameras.items()}
