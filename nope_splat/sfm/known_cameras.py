"""Known cameras: read them, register images with them, and keep them unless the images contradict them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class KnownCameras:
    """Poses of some images and the intrinsics of all cameras."""

    image_ids: Indices
    """Indices of the images with a known pose. (G,)."""
    T_world_camera: Array
    """Camera-to-world transforms, OpenCV axes, centered at the origin with radius ten. (G, 4, 4)."""
    focal: Array
    """Focal length of each camera as a share of the longer side. (K,)."""
    offset: Array
    """Principal points minus image center, as shares of the longer side. (K, 2)."""
    radial: Array
    """Radial distortion. (K, 2)."""
    source: str = "the known cameras"
    """File or folder that contains the cameras, for messages."""
    origin: Array = field(default_factory=lambda: np.zeros(3))
    """World coordinates, in the file, of the origin of the centered transforms. (3,)."""
    unit: float = 1.0
    """Length, in the world coordinates of the file, of one unit of the centered transforms."""
    is_corrected: bool = False
    """Whether the intrinsics are not those of the file, so that the cameras are only a start."""

    @classmethod
    def read(cls, path: Path, names: Sequence[str], held_out: Mask, camera_ids: Indices) -> KnownCameras:
        """Read the cameras of training images.

        Args:
            path: File or folder (see `read_named_cameras`).
            names: Names of all images, including folders.
            held_out: Images kept for evaluation. (N,).
            camera_ids: Camera of each image. (N,).

        Returns:
            The cameras. If intrinsics differ among images of one camera, their medians are used, and the
            medians over all images for a camera without known intrinsics.

        Raises:
            NopeSplatError: If the file cannot be read, has a camera without an image, cameras for fewer than
                two training images, or all at one place.
        """
        cameras = _cameras_by_image(read_named_cameras(path), names, path)
        images = np.array([image_id for image_id in sorted(cameras) if not held_out[image_id]], np.int64)
        if len(images) < 2:
            raise NopeSplatError(
                "no-cameras",
                f"{path} has cameras for only {len(images)} of the photos to reconstruct, but at least two"
                " are needed; add cameras or choose another initialization",
            )
        T_world_camera = np.stack([cameras[image_id].T_world_camera for image_id in images.tolist()])
        # Files contain rounded rotations, and files of some tools scaled ones.
        T_world_camera[:, :3, :3] = nearest_rotation(T_world_camera[:, :3, :3])
        T_world_camera, origin, unit = _normalize(T_world_camera)
        if not unit > 0:
            raise NopeSplatError(
                "no-baseline",
                f"all cameras in {path} have the same position, so depth cannot be determined; pass cameras"
                " at different positions",
            )
        selected = [cameras[image_id] for image_id in images.tolist()]
        by_image = np.array([(camera.focal, *camera.offset, *camera.radial) for camera in selected])
        intrinsics = np.tile(np.median(by_image, axis=0), (int(camera_ids.max()) + 1, 1))
        for camera_id in np.unique(camera_ids[images]):
            intrinsics[camera_id] = np.median(by_image[camera_ids[images] == camera_id], axis=0)
        return cls(
            images,
            T_world_camera,
            intrinsics[:, 0],
            intrinsics[:, 1:3],
            intrinsics[:, 3:],
            str(path),
            origin,
            unit,
        )

    @property
    def extent(self) -> float:
        """Twice the largest distance of a camera from the center of all cameras."""
        centers = self.T_world_camera[:, :3, 3]
        return 2 * float(np.linalg.norm(centers - centers.mean(0), axis=1).max())

    @property
    def T_file_camera(self) -> Array:
        """Camera-to-world transforms in the world coordinates of the file, OpenCV axes. (G, 4, 4)."""
        poses = self.T_world_camera.copy()
        poses[:, :3, 3] = self.unit * poses[:, :3, 3] + self.origin
        return poses

    def T_by_image(self) -> dict[int, Array]:
        """Return the camera-to-world transforms by image index. (4, 4) each."""
        return dict(zip(self.image_ids.tolist(), self.T_world_camera, strict=True))

    def only(self, image_ids: Indices) -> KnownCameras:
        """Restrict the poses to those of some images.

        Args:
            image_ids: Indices of the images. (n,).
        """
        kept = np.isin(self.image_ids, image_ids)
        T_world_camera, origin, unit = _normalize(self.T_file_camera[kept])
        return replace(
            self, image_ids=self.image_ids[kept], T_world_camera=T_world_camera, origin=origin, unit=unit
        )

    def to_lists(self) -> dict[str, object]:
        """Convert arrays to lists, for a cache key that does not depend on the name of the file."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if name != "source"
        }

    def merge_components(self, components: Sequence[Indices]) -> Indices:
        """Merge the connected components that contain an image with a known camera.

        Args:
            components: Images of each component.

        Returns:
            Indices of the images with known cameras and of all images in these components, ascending.
        """
        connected = [component for component in components if np.isin(component, self.image_ids).any()]
        return np.unique(np.concatenate([self.image_ids, *connected]))

    def register(self, state: SfmState) -> None:
        """Give images of a state their known poses, and all cameras their known intrinsics.

        Args:
            state: Modified in place.
        """
        longer_sides = state.longer_sides
        state.focal, state.offset = self.focal * longer_sides, self.offset * longer_sides[:, None]
        state.radial = self.radial
        state.T_camera_world[self.image_ids] = invert(self.T_world_camera)
        state.registered[self.image_ids] = True


def prefer_known_cameras(state: SfmState, known: KnownCameras, options: MapperOptions) -> bool:
    """Restore the known cameras, in place, unless the images contradict them.

    Bundle adjustment follows the noise of the keypoints, so it can only worsen exact cameras. The images
    contradict known cameras if observations are much noisier than with refined ones.

    Args:
        state: Refined state that was initialized with the known cameras.
        known: The cameras.
        options: Triangulation and bundle adjustment.

    Returns:
        Whether the known cameras were restored.
    """
    if known.is_corrected or not state.registered[known.image_ids].all():
        return False
    before = state.snapshot()
    rows = np.flatnonzero(state.inlier & np.isin(state.image_ids, known.image_ids))
    refined_noise = state.noise(rows)
    to_known = align_similarity(state.centers()[known.image_ids], known.T_world_camera[:, :3, 3])
    state.T_camera_world = invert(to_known.apply_to_poses(invert(state.T_camera_world)))
    state.points = to_known.apply(state.points)
    known.register(state)
    free_images = state.registered.copy()
    free_images[known.image_ids] = False
    adjustment = BundleAdjustmentOptions(refine_focal_length=False, device=options.ba_device)
    state.bundle_adjust(adjustment, free_images=free_images)
    refinement = options.refinement
    if state.noise(rows) < refinement.max_known_camera_noise_ratio * refined_noise:
        filter_observations(state, refinement.filter_max_reproj_errors[-1], options.min_tri_angle)
        return True
    state.restore(before)
    return False


def _normalize(T_world_camera: Array) -> tuple[Array, Array, float]:
    """Center camera-to-world transforms at the origin, with radius ten.

    Args:
        T_world_camera: The transforms. (n, 4, 4).

    Returns:
        The normalized transforms (n, 4, 4); the old center (3,); the old length of a new unit, zero if all
        transforms have the same position, which are then only centered.
    """
    centers = T_world_camera[:, :3, 3]
    origin = centers.mean(0)
    extent = float(np.linalg.norm(centers - origin, axis=1).max())
    normalized = T_world_camera.copy()
    normalized[:, :3, 3] = (centers - origin) * (10 / extent if extent > 0 else 1.0)
    return normalized, origin, extent / 10


def _cameras_by_image(
    cameras: Mapping[str, NamedCamera], names: Sequence[str], source: Path
) -> dict[int, NamedCamera]:
    """Map image indices to cameras by name, with folders or, if that is unique, without."""
    index_of_name = {name: index for index, name in enumerate(names)}
    short = [PurePosixPath(name).name for name in names]
    if len(set(short)) == len(short):
        index_of_name |= {name: index for index, name in enumerate(short)}
    for name in cameras:
        if name not in index_of_name:
            raise NopeSplatError(
                "name-mismatch",
                f"{source} has a camera for {name}, but no photo has that name; remove the camera or add the"
                " photo",
            )
    return {index_of_name[name]: camera for name, camera in cameras.items()}
