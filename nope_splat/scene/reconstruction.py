"""The sparse scene: what reconstruction hands to splatting, to the exporters and to the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.camera import SharedPinhole, project_errors
from nope_splat.geometry.rigid import invert, transform
from nope_splat.scene.tracks import MatchGraph, Observations


@dataclass(frozen=True)
class Reconstruction:
    """Cameras and track points in one world frame, with the observations that support them.

    The world is normalized: z points up as the cameras have it, the median depth of the observations
    is one, the origin is the median of the points.

    Example:
        Project the track points of a reconstruction into its first image.

        >>> from tempfile import TemporaryDirectory
        >>> from nope_splat import reconstruct
        >>> from nope_splat.demo.scene import render_demo_scene
        >>> from nope_splat.io.images import find_images
        >>> with TemporaryDirectory() as folder:
        ...     images = find_images(render_demo_scene(Path(folder), num_images=6, size=(320, 240)))
        ...     scene = reconstruct(images)
        >>> in_camera = transform(invert(scene.T_world_camera[0]), scene.points)
        >>> xy = scene.camera_of(0).project(in_camera, scene.image_sizes[0])
        >>> xy.shape == (len(scene.points), 2)
        True
    """

    image_names: tuple[str, ...]
    """Names of all N images of the folder, held-out and unregistered ones included."""
    image_sizes: NDArray[np.int64]
    """Width and height, upright, full resolution. (N, 2)."""
    held_out: NDArray[np.bool_]
    """Images kept for evaluation: no track, focal length or adjustment has seen them. (N,)."""
    registered: NDArray[np.bool_]
    """Images with a pose. A held-out one is registered against the finished points. (N,)."""
    T_world_camera: NDArray[np.float64]
    """Camera-to-world transforms, OpenCV axes; the identity where unregistered. (N, 4, 4)."""
    cameras: tuple[SharedPinhole, ...]
    """The K cameras."""
    camera_ids: NDArray[np.int64]
    """Which camera took each image. (N,)."""
    points: NDArray[np.float64]
    """Track points in world coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """Mean color of each point over its observations, RGB. (P, 3)."""
    observations: Observations
    """Observations of the points in registered training images; every point has at least two."""
    noise: NDArray[np.float64]
    """Standard deviation of each observation per axis, pixels of the full-resolution image. (O,)."""
    resections: Observations
    """Observations of the points in registered held-out images, found after everything else."""
    failures: dict[str, str]
    """Images without a pose: name to reason."""
    graph: MatchGraph
    """Match graph of the training images, in indices of `image_names`."""
    seconds: dict[str, float]
    """Wall time of each stage."""
    notice: str = ""
    """What the user should know about the scene as a whole, one sentence; empty where there is nothing."""
    focal_fixed: bool = False
    """Whether the focal length was held where the images do not show it; so it must be from then on."""

    def camera_of(self, image_id: int) -> SharedPinhole:
        """The camera that took an image.

        Args:
            image_id: Index of the image.
        """
        return self.cameras[self.camera_ids[image_id]]

    def focals(self) -> NDArray[np.float64]:
        """Focal lengths in pixels of the full-resolution images. (N,)."""
        return np.array([camera.focal for camera in self.cameras])[self.camera_ids]

    def principal_points(self) -> NDArray[np.float64]:
        """Principal points in pixels of the full-resolution images. (N, 2)."""
        return self.image_sizes / 2 + np.array([camera.offset for camera in self.cameras])[self.camera_ids]

    def in_camera(self, observations: Observations) -> NDArray[np.float64]:
        """Observed points in the coordinates of the observing cameras (OpenCV axes). (O, 3)."""
        poses = invert(self.T_world_camera[observations.image_ids])
        return transform(poses, self.points[observations.point_ids])

    def reprojection_errors(self) -> NDArray[np.float64]:
        """Distance of each projected point from its observation, full-resolution pixels. (O,)."""
        observations = self.observations
        radial = np.array([camera.radial for camera in self.cameras])[self.camera_ids]
        intrinsics = (
            each[observations.image_ids] for each in (self.focals(), self.principal_points(), radial)
        )
        return project_errors(self.in_camera(observations), observations.xy, *intrinsics)

    def undistorted(self) -> Reconstruction:
        """The same scene as cameras without distortion would have seen it: cameras and observations."""
        if not any(any(camera.radial) for camera in self.cameras):
            return self

        def straight(observations: Observations) -> Observations:
            xy = observations.xy.copy()
            for number, camera in enumerate(self.cameras):
                mine = self.camera_ids[observations.image_ids] == number
                sizes = self.image_sizes[observations.image_ids[mine]]
                xy[mine] = camera.undistorted(xy[mine], sizes)
            return replace(observations, xy=xy)

        return replace(
            self,
            cameras=tuple(replace(camera, radial=(0.0, 0.0)) for camera in self.cameras),
            observations=straight(self.observations),
            resections=straight(self.resections),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, as plain arrays that can be stored without pickle."""
        plain = {
            "image_names": self.image_names,
            "cameras": [asdict(camera) for camera in self.cameras],
            "failures": self.failures,
            "num_images": self.graph.num_images,
            "seconds": self.seconds,
            "notice": self.notice,
            "focal_held": self.focal_fixed,
        }
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        for name in ("observations", "resections"):
            arrays |= {f"{name}.{key}": value for key, value in vars(getattr(self, name)).items()}
        arrays |= {f"graph.{key}": getattr(self.graph, key) for key in ("edges", "weights", "tree")}
        return arrays | {"plain": np.array(json.dumps(plain))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reconstruction:
        """The inverse of `to_arrays`."""
        plain = json.loads(arrays["plain"].item())

        def part(name: str) -> dict[str, NDArray[Any]]:
            return {key.split(".")[1]: arrays[key] for key in arrays if key.startswith(f"{name}.")}

        return cls(
            image_names=tuple(plain["image_names"]),
            cameras=tuple(
                SharedPinhole(**{name: _tuple(value) for name, value in camera.items()})
                for camera in plain["cameras"]
            ),
            observations=Observations(**part("observations")),
            resections=Observations(**part("resections")),
            failures=plain["failures"],
            graph=MatchGraph(plain["num_images"], **part("graph")),
            seconds=plain["seconds"],
            notice=plain["notice"],
            focal_fixed=plain["focal_held"],
            **{name: arrays[name] for name in _ARRAYS},
        )

    def save(self, path: Path) -> None:
        """Write everything to one compressed `.npz` file.

        Args:
            path: The file.
        """
        np.savez_compressed(path, **self.to_arrays())

    @classmethod
    def load(cls, path: Path) -> Reconstruction:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The scene.
        """
        with np.load(path, allow_pickle=False) as file:
            return cls.from_arrays(dict(file))


_ARRAYS = (
    *("image_sizes", "camera_ids", "held_out", "registered", "T_world_camera"),
    *("points", "colors", "noise"),
)


def normalize(scene: Reconstruction) -> Reconstruction:
    """Bring the world to its standard frame; nothing that an image shows changes.

    z is the mean of the cameras' up directions, x the horizontal part of the first camera's right (or,
    where that is vertical, viewing) direction, the origin the median of the points, and the unit of length
    the median depth of the observations. Held-out images have no say.

    Args:
        scene: A scene with at least one registered training image and one observation.

    Returns:
        The same scene after a similarity transform.
    """
    poses = scene.T_world_camera[scene.registered & ~scene.held_out]
    up = _unit(-poses[:, :3, 1].mean(0))
    sideways = poses[0, :3, 0] - up * (up @ poses[0, :3, 0])
    if np.linalg.norm(sideways) < 0.5:
        sideways = poses[0, :3, 2] - up * (up @ poses[0, :3, 2])
    right = _unit(sideways)
    rotation = np.stack([right, np.cross(up, right), up])

    scale = 1 / float(np.median(scene.in_camera(scene.observations)[:, 2]))
    rotated = scale * scene.points @ rotation.T
    origin = np.median(rotated, axis=0)
    moved = scene.T_world_camera.copy()
    moved[:, :3, :3] = rotation @ moved[:, :3, :3]
    moved[:, :3, 3] = scale * moved[:, :3, 3] @ rotation.T - origin
    moved[~scene.registered] = np.eye(4)
    return replace(scene, T_world_camera=moved, points=rotated - origin)


def _tuple(value: Any) -> Any:
    """A tuple where json has made a list of it."""
    return tuple(value) if isinstance(value, list) else value


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vector of length one; z for the null vector. (3,)."""
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])
