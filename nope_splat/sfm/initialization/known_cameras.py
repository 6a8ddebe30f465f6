"""Start from cameras that the user has, instead of from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.rigid import invert
from nope_splat.geometry.similarity import align_similarity
from nope_splat.io.cameras import NamedCamera, read_named_cameras
from nope_splat.matching import Keypoints
from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.two_view import TwoView
from nope_splat.sfm.state import FocalPrior, SfmState
from nope_splat.sfm.triangulation import filter_observations, triangulate_coarse_to_fine
from nope_splat.utils.typing import Array, Indices, Mask

MAX_NOISE_RATIO = 1.25
"""Given cameras stay as they are while observations seem noisier with them than with adjusted ones by no
more than this factor."""


@dataclass(frozen=True)
class KnownCameras:
    """Poses of some images and the intrinsics of all cameras."""

    image_ids: Indices
    """Indices of the images. (G,)."""
    T_world_camera: Array
    """Camera-to-world transforms, OpenCV axes, about the origin and at most ten units from it. (G, 4, 4)."""
    focal: Array
    """Focal length of each camera as a share of the longer side. (K,)."""
    offset: Array
    """Principal points minus image center, as shares of the longer side. (K, 2)."""
    radial: Array
    """Radial distortion. (K, 2)."""

    @classmethod
    def read(cls, path: Path, names: Sequence[str], held_out: Mask, camera_ids: Indices) -> KnownCameras:
        """Read cameras, of training images only.

        Args:
            path: A file or folder as for `read_named_cameras`.
            names: Names of all images, folders included.
            held_out: Images kept for evaluation. (N,).
            camera_ids: Camera of each image. (N,).

        Returns:
            The cameras; where intrinsics differ among images of one camera, their medians, and those of
            all for a camera without any.

        Raises:
            NopeSplatError: If the file cannot be read, has a camera without an image, cameras for fewer than
                two training images, or all at one place.
        """
        cameras = _of_images(read_named_cameras(path), names, path)
        images = np.array([image_id for image_id in sorted(cameras) if not held_out[image_id]], np.int64)
        if len(images) < 2:
            raise NopeSplatError(
                "no-cameras",
                f"{path} has cameras for {len(images)} of the photos to reconstruct, and a start"
                " takes two; give more cameras, or none",
            )
        T_world_camera = np.stack([cameras[image_id].T_world_camera for image_id in images.tolist()])
        left, _, right = np.linalg.svd(T_world_camera[:, :3, :3])
        T_world_camera[:, :3, :3] = left @ right  # files hold rounded, and some tools scaled, rotations
        centers = T_world_camera[:, :3, 3]
        centers = centers - centers.mean(0)
        extent = float(np.linalg.norm(centers, axis=1).max())
        if not extent > 0:
            raise NopeSplatError(
                "no-baseline", f"all cameras in {path} are at one place, where depth cannot be told"
            )
        T_world_camera[:, :3, 3] = centers * (10 / extent)
        chosen = [cameras[image_id] for image_id in images.tolist()]
        found = np.array([(camera.focal, *camera.offset, *camera.radial) for camera in chosen])
        intrinsics = np.tile(np.median(found, axis=0), (int(camera_ids.max()) + 1, 1))
        for camera in np.unique(camera_ids[images]):
            intrinsics[camera] = np.median(found[camera_ids[images] == camera], axis=0)
        return cls(images, T_world_camera, intrinsics[:, 0], intrinsics[:, 1:3], intrinsics[:, 3:])

    def to_plain(self) -> dict[str, object]:
        """Numbers in lists, for the key of a cache."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    def join(self, groups: Sequence[Indices]) -> Indices:
        """The images with cameras, and all that groups of matched images connect with them.

        Args:
            groups: Images of each group.

        Returns:
            Indices of images, ascending.
        """
        reached = [group for group in groups if np.isin(group, self.image_ids).any()]
        return np.unique(np.concatenate([self.image_ids, *reached]))

    def place(self, state: SfmState) -> None:
        """Register the images of a scene with these cameras.

        Args:
            state: Changed in place.
        """
        longer_sides = state.longer_sides
        state.focal, state.offset = self.focal * longer_sides, self.offset * longer_sides[:, None]
        state.radial = self.radial
        state.T_camera_world[self.image_ids] = invert(self.T_world_camera)
        state.registered[self.image_ids] = True


def start_from_known_cameras(
    given: KnownCameras,
    keypoints: Sequence[Keypoints],
    views: Mapping[tuple[int, int], TwoView],
    layout: CameraGroups,
    min_angle: float,
    device: str = "cpu",
    fix_focal: bool = False,
    focal_prior: FocalPrior | None = None,
) -> SfmState:
    """Triangulate tracks with given cameras and adjust both, coarse to fine.

    Args:
        given: The cameras.
        keypoints: Keypoints of each image.
        views: Verified pairs, whose matches make the tracks.
        layout: Sizes and cameras of the images.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
        fix_focal: Whether the focal lengths stay as they are.
        focal_prior: What is known of the focal lengths, beside those of the cameras.

    Returns:
        A scene in which the images with cameras are registered.
    """
    tracks = build_tracks(keypoints, [view.matches for view in views.values()])
    state = SfmState.start(tracks, layout, given.focal * layout.longer_sides, fix_focal, focal_prior)
    given.place(state)
    triangulate_coarse_to_fine(state, min_angle, device)
    return state


def prefer_known_cameras(
    state: SfmState, given: KnownCameras, max_error: float, min_angle: float, device: str = "cpu"
) -> bool:
    """Return to the given cameras, in place, unless the images contradict them.

    Adjustment follows the noise of the keypoints wherever it leads: exact cameras could only become worse.
    They are contradicted where observations seem much noisier with them than with adjusted cameras.

    Args:
        state: A finished scene that started from the given cameras.
        given: The cameras.
        max_error: Largest reprojection error of an observation, feature pixels.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.

    Returns:
        Whether the cameras are the given ones.
    """
    if not state.registered[given.image_ids].all():
        return False
    before = state.snapshot()
    rows = np.flatnonzero(state.inlier & np.isin(state.image_ids, given.image_ids))
    adjusted_noise = state.noise(rows)
    to_given = align_similarity(state.centers()[given.image_ids], given.T_world_camera[:, :3, 3])
    state.T_camera_world = invert(to_given.apply_to_poses(invert(state.T_camera_world)))
    state.points = to_given.apply(state.points)
    given.place(state)
    others = state.registered.copy()
    others[given.image_ids] = False
    state.adjust(free_images=others, free_focal=False, device=device)
    if state.noise(rows) < MAX_NOISE_RATIO * adjusted_noise:
        filter_observations(state, max_error, min_angle)
        return True
    state.restore(before)
    return False


def _of_images(
    cameras: Mapping[str, NamedCamera], names: Sequence[str], source: Path
) -> dict[int, NamedCamera]:
    """Cameras by index of their image, found by its name with or without folders."""
    places = {name: index for index, name in enumerate(names)}
    short = [PurePosixPath(name).name for name in names]
    if len(set(short)) == len(short):
        places |= {name: index for index, name in enumerate(short)}
    for name in cameras:
        if name not in places:
            raise NopeSplatError(
                "name-mismatch",
                f"{source} has a camera for {name}, but there is no photo of that name; remove the"
                " camera or add the photo",
            )
    return {places[name]: camera for name, camera in cameras.items()}
