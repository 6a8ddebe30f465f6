"""Known poses and intrinsics: reading, registration of images, and restoration after refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.distortion import turn_distortion
from nope_splat.geometry.rigid import invert, nearest_rotation, rotate
from nope_splat.geometry.similarity import align_similarity
from nope_splat.io.cameras import NamedCamera, read_image_cameras
from nope_splat.io.images import ImageFile
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.camera_assignment import upright_from_sensor
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import filter_observations
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class KnownCameras:
    """Known poses of G images, and known intrinsics of all K cameras."""

    image_ids: Indices
    """Indices of the images with a known pose. (G,)."""
    T_world_camera: Array
    """Camera-to-world transforms (OpenCV axes) of the images `image_ids`, translated and scaled so that the
    mean camera center is the origin and the largest distance of a camera center from the origin is ten.
    (G, 4, 4)."""
    focal: Array
    """Focal length of each camera, divided by the longer image side. (K,)."""
    offset: Array
    """Principal point minus image center of each camera, (x, y) in pixels of the sensor, divided by the
    longer image side. (K, 2)."""
    distortion: Array
    """Distortion coefficients k1, k2, k3, k4, p1 and p2 of each camera (see `Camera`). (K, 6)."""
    is_fisheye: Mask
    """Whether the projection of each camera is equidistant instead of perspective. (K,)."""
    source: str = "the known cameras"
    """Path of the file or folder with the known cameras, for messages."""
    origin: Array = field(default_factory=lambda: np.zeros(3))
    """Mean camera center in the world coordinates of the file with the known cameras; the origin of
    `T_world_camera`. (3,)."""
    unit: float = 1.0
    """Length of one unit of `T_world_camera`, in world units of the file with the known cameras."""
    is_corrected: bool = False
    """Whether `correct_intrinsics` has replaced the known intrinsics. If True, SfM uses the known poses and
    the intrinsics only as initial values, and keeps the refined ones."""

    @classmethod
    def read(
        cls, path: Path, images: Sequence[ImageFile], held_out: Mask, camera_ids: Indices
    ) -> KnownCameras:
        """Read the known poses and intrinsics of the training images.

        Args:
            path: File or folder with the cameras (see `read_image_cameras`).
            images: All N images.
            held_out: Whether each image is held out for evaluation; cameras of held-out images are ignored.
                (N,).
            camera_ids: Index of the camera (set of intrinsics) of each image. (N,).

        Returns:
            The known cameras of training images (see `from_cameras`).

        Raises:
            NopeSplatError: If the file cannot be read, a camera in the file has no image, fewer than two
                training images have a camera, or all cameras have the same position.
        """
        turns = upright_from_sensor(images, camera_ids)
        return cls.from_cameras(read_image_cameras(path, images), held_out, camera_ids, path, turns)

    @classmethod
    def from_cameras(
        cls,
        cameras: Mapping[int, NamedCamera],
        held_out: Mask,
        camera_ids: Indices,
        path: Path,
        turns: Array | None = None,
    ) -> KnownCameras:
        """Select the known poses and intrinsics of the training images.

        Args:
            cameras: Known pose and intrinsics of each image, by image index; images without them are omitted.
            held_out: Whether each of all N images is held out for evaluation; cameras of held-out images are
                ignored. (N,).
            camera_ids: Index of the camera (set of intrinsics) of each image. (N,).
            path: File or folder with the cameras, for messages.
            turns: Rotation and mirroring of each image from pixels of the sensor to upright pixels (see
                `upright_from_sensor`); identities if None. (N, 2, 2).

        Returns:
            The known cameras of training images. The intrinsics of each of the K cameras are the medians over
            its training images in the file or, if there are none, over all training images in the file.

        Raises:
            NopeSplatError: If fewer than two training images have a camera, or all cameras have the same
                position.
        """
        images = np.array([image_id for image_id in sorted(cameras) if not held_out[image_id]], np.int64)
        if len(images) < 2:
            raise NopeSplatError(
                "no-cameras",
                f"{path} has cameras for only {len(images)} of the photos to reconstruct, but at least two"
                " are needed; add cameras or choose another initialization",
            )
        T_world_camera = np.stack([cameras[image_id].T_world_camera for image_id in images.tolist()])
        # Rotations in files are rounded, and some tools write rotations multiplied by a scale.
        T_world_camera[:, :3, :3] = nearest_rotation(T_world_camera[:, :3, :3])
        T_world_camera, origin, unit = _normalize(T_world_camera)
        if not unit > 0:
            raise NopeSplatError(
                "no-baseline",
                f"all cameras in {path} have the same position, so depth cannot be determined; pass cameras"
                " at different positions",
            )
        selected = [cameras[image_id] for image_id in images.tolist()]
        by_image = np.array(
            [(camera.focal, *camera.offset, *camera.distortion, camera.is_fisheye) for camera in selected]
        )
        if turns is not None:
            to_sensor = turns[images].swapaxes(1, 2)
            by_image[:, 1:3] = rotate(to_sensor, by_image[:, 1:3])
            by_image[:, 3:9] = turn_distortion(by_image[:, 3:9], to_sensor)
            is_unknown = ~turns[images].any((1, 2))
            by_image[is_unknown, 1:3] = by_image[is_unknown, 7:9] = np.nan
        intrinsics = np.tile(_medians(by_image), (int(camera_ids.max()) + 1, 1))
        for camera_id in np.unique(camera_ids[images]):
            intrinsics[camera_id] = _medians(by_image[camera_ids[images] == camera_id])
        return cls(
            images,
            T_world_camera,
            intrinsics[:, 0],
            intrinsics[:, 1:3],
            intrinsics[:, 3:9],
            intrinsics[:, 9] > 0.5,
            str(path),
            origin,
            unit,
        )

    @property
    def extent(self) -> float:
        """Twice the largest distance of a camera center from the mean camera center.

        Measured in the units of `T_world_camera`.
        """
        centers = self.T_world_camera[:, :3, 3]
        return 2 * float(np.linalg.norm(centers - centers.mean(0), axis=1).max())

    @property
    def T_file_camera(self) -> Array:
        """Camera-to-world transforms (OpenCV axes) in the world coordinates of their file. (G, 4, 4)."""
        poses = self.T_world_camera.copy()
        poses[:, :3, 3] = self.unit * poses[:, :3, 3] + self.origin
        return poses

    def T_by_image(self) -> dict[int, Array]:
        """Return the camera-to-world transforms by image index. (4, 4) each."""
        return dict(zip(self.image_ids.tolist(), self.T_world_camera, strict=True))

    def select(self, image_ids: Indices) -> KnownCameras:
        """Keep only the poses of some images, and center and scale the kept poses again.

        Args:
            image_ids: Indices of the images; images without a known pose are ignored. (n,).
        """
        kept = np.isin(self.image_ids, image_ids)
        T_world_camera, origin, unit = _normalize(self.T_file_camera[kept])
        return replace(
            self, image_ids=self.image_ids[kept], T_world_camera=T_world_camera, origin=origin, unit=unit
        )

    def to_lists(self) -> dict[str, object]:
        """Return all fields except `source` by name, with arrays as lists.

        For cache keys, which must not depend on the path of the file with the cameras.
        """
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if name != "source"
        }

    def merge_components(self, components: Sequence[Indices]) -> Indices:
        """Merge the connected components that contain an image with a known camera.

        Args:
            components: Image indices of each connected component of the match graph.

        Returns:
            Indices of all images in these components and of all images with a known camera, ascending.
        """
        connected = [component for component in components if np.isin(component, self.image_ids).any()]
        return np.unique(np.concatenate([self.image_ids, *connected]))

    def register(self, state: SfmState) -> None:
        """Set the poses of images with known cameras, and the intrinsics of all cameras, in a state.

        Args:
            state: State of SfM; changed in place.
        """
        longer_sides = state.longer_sides
        state.focal, state.offset = self.focal * longer_sides, self.offset * longer_sides[:, None]
        state.distortion, state.is_fisheye = self.distortion.copy(), self.is_fisheye.copy()
        state.T_camera_world[self.image_ids] = invert(self.T_world_camera)
        state.registered[self.image_ids] = True


def _medians(values: Array) -> Array:
    """Compute the median of each column without NaN; zero for columns of NaN. (n, m) -> (m,)."""
    return np.ma.median(np.ma.masked_invalid(values), axis=0).filled(0.0)


def prefer_known_cameras(state: SfmState, known: KnownCameras, options: MapperOptions) -> bool:
    """Restore the known cameras after refinement, unless the images contradict them.

    Bundle adjustment fits the cameras to noisy keypoints, so it can only make exact cameras worse. The images
    contradict the known cameras if the observation noise with the known cameras is at least
    `GlobalRefinementOptions.max_known_camera_noise_ratio` times the noise with the refined cameras. Before
    this comparison, the points and the poses of the other images are adjusted to the known cameras. Known
    cameras with corrected intrinsics are never restored.

    Args:
        state: Refined state that was initialized with the known cameras; changed in place.
        known: The known cameras.
        options: Options of triangulation, bundle adjustment and refinement.

    Returns:
        Whether the known cameras were restored; if False, the state keeps the refined cameras.
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
    """Translate and scale camera poses so that their mean center is the origin and their radius is ten.

    The radius is the largest distance of a camera from the mean center. If it is zero, the poses are only
    translated.

    Args:
        T_world_camera: Camera-to-world transforms. (n, 4, 4).

    Returns:
        The new transforms (n, 4, 4); the mean camera center in the old coordinates (3,); the length of one
        new unit in old units, zero if all cameras have the same position.
    """
    centers = T_world_camera[:, :3, 3]
    origin = centers.mean(0)
    extent = float(np.linalg.norm(centers - origin, axis=1).max())
    normalized = T_world_camera.copy()
    normalized[:, :3, 3] = (centers - origin) * (10 / extent if extent > 0 else 1.0)
    return normalized, origin, extent / 10
