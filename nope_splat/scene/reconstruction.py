"""The sparse reconstruction: the result of SfM, and the input of splatting, export and reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import NO_DISTORTION, Camera, project_errors
from nope_splat.geometry.distortion import undistort
from nope_splat.geometry.projection import LensModel
from nope_splat.geometry.rigid import invert, rotate, transform
from nope_splat.scene.stationary import (
    StationaryPixels,
    stationary_from_arrays,
    stationary_to_arrays,
)
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.scene.trust import Doubts, Notice, Trust


@dataclass(frozen=True)
class Lens:
    """Camera model, lens model and focal length from the EXIF data of images that share intrinsics."""

    name: str = ""
    """Maker and model of the camera, and model of the lens; empty if unknown or different between images."""
    focal: float | None = None
    """Focal length in full-resolution pixels; None if the EXIF data do not determine it."""


@dataclass(frozen=True)
class Reconstruction:
    """Intrinsics, camera poses and track points with their observations, in one world frame.

    The world frame is normalized (see `normalize`): z points up, the origin is the median of the points, and
    the median depth of the observations is one.

    Example:
        Project the track points of a reconstruction into its first image.

        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from nope_splat import reconstruct
        >>> from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
        >>> from nope_splat.geometry.rigid import invert, transform
        >>> with TemporaryDirectory() as folder:
        ...     demo = render_demo_scene(Path(folder), DemoSceneConfig(num_images=6, size=(320, 240)))
        ...     scene = reconstruct(demo)
        >>> in_camera = transform(invert(scene.T_world_camera[0]), scene.points)
        >>> xy = scene.camera_of(0).project(in_camera, scene.image_sizes[0])
        >>> xy.shape == (len(scene.points), 2)
        True
    """

    image_names: tuple[str, ...]
    """Names of all N images of the folder, including held-out and unregistered images."""
    image_sizes: NDArray[np.int64]
    """Width and height of each upright image at full resolution, in pixels. (N, 2)."""
    held_out: NDArray[np.bool_]
    """Whether each image is held out for evaluation. Held-out images are not used for tracks, focal lengths
    or bundle adjustment. (N,)."""
    registered: NDArray[np.bool_]
    """Whether each image has a pose. Held-out images are registered by resection from the final points.
    (N,)."""
    T_world_camera: NDArray[np.floating]
    """Camera-to-world transforms (OpenCV axes); the identity for unregistered images. (N, 4, 4)."""
    cameras: tuple[Camera, ...]
    """Intrinsics of each of the K cameras; images may share a camera."""
    camera_ids: NDArray[np.int64]
    """Index into `cameras` for each image. (N,)."""
    points: NDArray[np.floating]
    """Track points in world coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """RGB color of each point, averaged over its observations. (P, 3)."""
    observations: Observations
    """The O observations of the points in registered training images, at least two per point."""
    noise: NDArray[np.floating]
    """Standard deviation of the x and of the y coordinate of each observation, in full-resolution pixels.
    (O,)."""
    resections: Observations
    """Inlier observations of the points in registered held-out images, found by resection."""
    failures: dict[str, str]
    """Reason why an image was not registered, by image name."""
    graph: MatchGraph
    """Match graph of the training images; nodes are indices into `image_names`."""
    seconds: dict[str, float]
    """Wall time of each stage in seconds, by name of the stage."""
    notices: tuple[Notice, ...] = ()
    """Warnings for the user about the reconstruction, the most important first."""
    trust: Trust | None = None
    """Estimated reliability of the cameras; None if it was not computed."""
    stationary: tuple[StationaryPixels, ...] = ()
    """Grid cells whose content stays at the same pixels in all images, such as a logo; one entry per image
    size that has such cells. Pixels in these cells are not used."""
    upright_from_sensor: NDArray[np.floating] | None = None
    """For each image, rotation and mirroring from pixels of the sensor to pixels of the upright image, both
    relative to the image center; zeros if unknown. They turn the principal points of `cameras`. None for
    identities. (N, 2, 2)."""
    lenses: tuple[Lens, ...] = ()
    """Camera and lens model of each camera from EXIF data; empty if EXIF data were not read. (K,)."""
    focal_fixed: bool = False
    """Whether SfM kept the focal length fixed because the images do not determine it. If True, later stages
    must not refine the focal length either."""

    @property
    def notice(self) -> str:
        """Messages of all notices, joined by semicolons; empty if there are no notices."""
        return "; ".join(notice.message for notice in self.notices)

    def camera_of(self, image_id: int) -> Camera:
        """Return the intrinsics of an upright image.

        Args:
            image_id: Index of the image.
        """
        camera = self.cameras[self.camera_ids[image_id]]
        turns = self.upright_from_sensor
        return camera if turns is None else camera.for_upright(turns[image_id])

    def stationary_cells(self, image_id: int) -> NDArray[np.bool_] | None:
        """Return which grid cells of an image are not used because their content stays at the same pixels.

        Args:
            image_id: Index of the image.

        Returns:
            True for cells that show such content, for example a logo. (rows, columns). None if there are no
            such cells.
        """
        size = tuple(self.image_sizes[image_id].tolist())
        return next((pixels.cells for pixels in self.stationary if pixels.size == size), None)

    def focals(self) -> NDArray[np.floating]:
        """Return the focal length of each image, in full-resolution pixels. (N,)."""
        return np.array([camera.focal for camera in self.cameras])[self.camera_ids]

    def principal_points(self) -> NDArray[np.floating]:
        """Return the principal point (x, y) of each upright image, in full-resolution pixels. (N, 2)."""
        offsets = np.array([camera.offset for camera in self.cameras])[self.camera_ids]
        if self.upright_from_sensor is not None:
            offsets = rotate(self.upright_from_sensor, offsets)
        return self.image_sizes / 2 + offsets

    def points_in_cameras(self, observations: Observations) -> NDArray[np.floating]:
        """Transform observed points to the camera coordinates (OpenCV axes) of their images.

        Args:
            observations: O observations of the points.

        Returns:
            Camera coordinates of the observed point, for each observation. (O, 3).
        """
        poses = invert(self.T_world_camera[observations.image_ids])
        return transform(poses, self.points[observations.point_ids])

    def reprojection_errors(self) -> NDArray[np.floating]:
        """Compute the reprojection errors of `observations`, in full-resolution pixels. (O,)."""
        observations = self.observations
        images = observations.image_ids
        focals, centers = self.focals()[images], self.principal_points()[images]
        lenses = self.lens_models().select(images)
        return project_errors(self.points_in_cameras(observations), observations.xy, focals, centers, lenses)

    def lens_models(self) -> LensModel:
        """Return projection and distortion of each upright image, for N images."""
        cameras = [self.camera_of(image_id) for image_id in range(len(self.image_names))]
        return LensModel(
            np.array([camera.distortion for camera in cameras]),
            np.array([camera.is_fisheye for camera in cameras]),
        )

    def undistorted(self) -> Reconstruction:
        """Return an equivalent reconstruction of pinhole cameras without distortion.

        The distortion of perspective cameras is set to zero, and the pixel coordinates of all observations
        are undistorted. Fisheye cameras stay fisheye cameras, without distortion.
        """
        if not any(any(camera.distortion) for camera in self.cameras):
            return self

        def undistort_observations(observations: Observations) -> Observations:
            centers = self.principal_points()[observations.image_ids]
            xy = observations.xy - centers
            focals = self.focals()[observations.image_ids, None]
            terms = self.lens_models().distortion[observations.image_ids]
            return replace(observations, xy=focals * undistort(xy / focals, terms) + centers)

        return replace(
            self,
            cameras=tuple(replace(camera, distortion=NO_DISTORTION) for camera in self.cameras),
            observations=undistort_observations(self.observations),
            resections=undistort_observations(self.resections),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Convert all fields to arrays by name; `numpy.savez` can store the arrays without pickle."""
        plain = {
            "image_names": self.image_names,
            "cameras": [asdict(camera) for camera in self.cameras],
            "failures": self.failures,
            "num_images": self.graph.num_images,
            "seconds": self.seconds,
            "notices": [asdict(notice) for notice in self.notices],
            "trust": self.trust and {"score": self.trust.score, "doubts": asdict(self.trust.doubts)},
            "lenses": [asdict(lens) for lens in self.lenses],
            "focal_held": self.focal_fixed,
        }
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        for name in ("observations", "resections"):
            arrays |= {f"{name}.{key}": value for key, value in vars(getattr(self, name)).items()}
        arrays |= {f"graph.{key}": getattr(self.graph, key) for key in ("edges", "weights", "tree")}
        arrays |= stationary_to_arrays(self.stationary)
        if self.upright_from_sensor is not None:
            arrays |= {"upright_from_sensor": self.upright_from_sensor}
        if self.trust is not None:
            arrays |= {"trust.images": self.trust.images, "trust.pairs": self.trust.pairs}
        return arrays | {"plain": np.array(json.dumps(plain))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reconstruction:
        """Create a reconstruction from the arrays that `to_arrays` returned.

        Args:
            arrays: Arrays by name.
        """
        plain = json.loads(arrays["plain"].item())

        def nested(name: str) -> dict[str, NDArray[Any]]:
            return {key.split(".")[1]: arrays[key] for key in arrays if key.startswith(f"{name}.")}

        return cls(
            image_names=tuple(plain["image_names"]),
            cameras=tuple(
                Camera(**{name: _list_to_tuple(value) for name, value in camera.items()})
                for camera in plain["cameras"]
            ),
            observations=Observations(**nested("observations")),
            resections=Observations(**nested("resections")),
            failures=plain["failures"],
            graph=MatchGraph(plain["num_images"], **nested("graph")),
            seconds=plain["seconds"],
            notices=tuple(Notice(**notice) for notice in plain["notices"]),
            trust=None if plain["trust"] is None else _trust(plain["trust"], nested("trust")),
            stationary=stationary_from_arrays(arrays),
            upright_from_sensor=arrays.get("upright_from_sensor"),
            lenses=tuple(Lens(**lens) for lens in plain.get("lenses", ())),
            focal_fixed=plain["focal_held"],
            **{name: arrays[name] for name in _ARRAYS},
        )

    def save(self, path: Path) -> None:
        """Write the reconstruction to a compressed `.npz` file.

        Args:
            path: File to write.
        """
        arrays: dict[str, Any] = self.to_arrays()
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Reconstruction:
        """Read a reconstruction from a file written by `save`.

        Args:
            path: File to read.

        Returns:
            The reconstruction.
        """
        with np.load(path, allow_pickle=False) as file:
            return cls.from_arrays(dict(file))


_ARRAYS = (
    *("image_sizes", "camera_ids", "held_out", "registered", "T_world_camera"),
    *("points", "colors", "noise"),
)


def normalize(scene: Reconstruction) -> Reconstruction:
    """Transform a reconstruction to the standard world frame; reprojection errors do not change.

    The z axis is the mean up direction of the registered training images. The x axis is the horizontal
    component of the right direction of the first of these images or, if the right direction is nearly
    vertical, of its viewing direction. The origin is the median of the points, and the unit of length is the
    median depth of the observations. Held-out images do not influence the frame.

    Args:
        scene: A reconstruction with at least one registered training image and one observation.

    Returns:
        The reconstruction after a similarity transform.
    """
    poses = scene.T_world_camera[scene.registered & ~scene.held_out]
    up = _unit(-poses[:, :3, 1].mean(0))
    sideways = poses[0, :3, 0] - up * (up @ poses[0, :3, 0])
    if np.linalg.norm(sideways) < 0.5:
        sideways = poses[0, :3, 2] - up * (up @ poses[0, :3, 2])
    right = _unit(sideways)
    rotation = np.stack([right, np.cross(up, right), up])

    scale = 1 / float(np.median(scene.points_in_cameras(scene.observations)[:, 2]))
    rotated = scale * scene.points @ rotation.T
    origin = np.median(rotated, axis=0)
    poses = scene.T_world_camera.copy()
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T - origin
    poses[~scene.registered] = np.eye(4)
    return replace(scene, T_world_camera=poses, points=rotated - origin)


def _trust(plain: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Trust:
    """Create a trust object from the values that `Reconstruction.to_arrays` stores.

    Args:
        plain: Values of `score` and `doubts`, read from JSON.
        arrays: The arrays `images` and `pairs`, by name.
    """
    return Trust(plain["score"], Doubts(**plain["doubts"]), arrays["images"], arrays["pairs"])


def _list_to_tuple(value: Any) -> Any:
    """Convert a list to a tuple, because JSON stores tuples as lists; return other values unchanged."""
    return tuple(value) if isinstance(value, list) else value


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    """Normalize a vector to unit length; return the z axis for a zero vector. (3,) -> (3,)."""
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])
