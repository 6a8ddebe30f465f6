"""Cameras that the user has: read, placed, and kept unless the images contradict them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.rigid import invert, nearest_rotation
from nope_splat.geometry.similarity import align_similarity
from nope_splat.io.cameras import NamedCamera, read_named_cameras
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import filter_observations
from nope_splat.utils.typing import Array, Indices, Mask

MAX_NOISE_RATIO = 1.25
"""Largest ratio of the observation noise with known cameras to that with adjusted ones at which the known
cameras stay."""


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
        # Files hold rounded, and some tools scaled, rotations.
        T_world_camera[:, :3, :3] = nearest_rotation(T_world_camera[:, :3, :3])
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


def prefer_known_cameras(
    state: SfmState, known: KnownCameras, max_error: float, options: MapperOptions
) -> bool:
    """Return to the known cameras, in place, unless the images contradict them.

    Adjustment follows the noise of the keypoints, so that it can only worsen exact cameras. The images
    contradict cameras with which observations are much noisier than with adjusted ones.

    Args:
        state: A refined state that started from the known cameras.
        known: The cameras.
        max_error: Largest reprojection error of an observation, feature pixels.
        options: Triangulation and bundle adjustment.

    Returns:
        Whether the cameras are the known ones again.
    """
    if not state.registered[known.image_ids].all():
        return False
    before = state.snapshot()
    rows = np.flatnonzero(state.inlier & np.isin(state.image_ids, known.image_ids))
    adjusted_noise = state.noise(rows)
    to_known = align_similarity(state.centers()[known.image_ids], known.T_world_camera[:, :3, 3])
    state.T_camera_world = invert(to_known.apply_to_poses(invert(state.T_camera_world)))
    state.points = to_known.apply(state.points)
    known.place(state)
    others = state.registered.copy()
    others[known.image_ids] = False
    adjustment = BundleAdjustmentOptions(refine_focal_length=False, device=options.ba_device)
    state.adjust(adjustment, free_images=others)
    if state.noise(rows) < MAX_NOISE_RATIO * adjusted_noise:
        filter_observations(state, max_error, options.min_tri_angle)
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
