"""COLMAP's model format, binary and text: three files of cameras, images and points.

Pixels and camera axes are ours: the first pixel's center is (0.5, 0.5), x right, y down, z forward.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from nope_splat.errors import NopeSplatError
from nope_splat.utils.typing import Array, Indices

CAMERA_MODELS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
}
"""Number of parameters of each camera model, in the order of COLMAP's numbers for them."""
ONE_FOCAL = frozenset(
    {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
)
"""Models whose parameters start with one focal length; those of the others start with two."""


@dataclass(frozen=True)
class ColmapCamera:
    """One camera, of one size of image."""

    model: str
    """Name of the camera model."""
    width: int
    """Pixels across."""
    height: int
    """Pixels down."""
    params: tuple[float, ...]
    """Parameters of the model: focal length, principal point, distortion."""

    @property
    def focal(self) -> float:
        """Focal length, the mean of x and y, in pixels."""
        return self.params[0] if self.model in ONE_FOCAL else (self.params[0] + self.params[1]) / 2

    @property
    def radial(self) -> tuple[float, float]:
        """Radial distortion k1 and k2 of the models that have these; zero for others."""
        k1_k2 = {"SIMPLE_RADIAL": slice(3, 4), "RADIAL": slice(3, 5), "OPENCV": slice(4, 6)}
        k1, k2, *_ = (*self.params[k1_k2.get(self.model, slice(0))], 0.0, 0.0)
        return k1, k2

    @property
    def principal_point(self) -> tuple[float, float]:
        """Principal point, (x, y) in pixels."""
        first = 1 if self.model in ONE_FOCAL else 2
        return self.params[first], self.params[first + 1]


@dataclass(frozen=True)
class ColmapImage:
    """One registered image."""

    name: str
    """Path relative to the image folder."""
    camera_id: int
    """Its camera."""
    T_camera_world: Array
    """World-to-camera transform, OpenCV axes. (4, 4)."""
    xy: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """Observed positions in pixels. (K, 2)."""
    point_ids: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """The point of each observation. (K,)."""


@dataclass(frozen=True)
class ColmapPoints:
    """Points, numbered from 1, with their observations."""

    xyz: Array
    """World coordinates. (P, 3)."""
    rgb: NDArray[np.uint8]
    """Colors. (P, 3)."""
    errors: Array
    """Mean reprojection errors in pixels. (P,)."""
    starts: Indices
    """The observations of point p are the rows from `starts[p]` to `starts[p + 1]` of `tracks`. (P + 1,)."""
    tracks: Indices
    """Image number, and index among that image's observations. (O, 2)."""

    def rows(self) -> Iterator[tuple[int, Array, NDArray[np.uint8], float, Indices]]:
        """Number, coordinates, color, error and track of each point."""
        for index, (start, end) in enumerate(pairwise(self.starts.tolist())):
            yield (
                index + 1,
                self.xyz[index],
                self.rgb[index],
                float(self.errors[index]),
                self.tracks[start:end],
            )


@dataclass(frozen=True)
class ColmapModel:
    """A sparse reconstruction."""

    cameras: Mapping[int, ColmapCamera]
    """Cameras by number."""
    images: Mapping[int, ColmapImage]
    """Registered images by number."""
    points: ColmapPoints
    """Points."""


def write_binary(model: ColmapModel, directory: Path) -> None:
    """Write `cameras.bin`, `images.bin` and `points3D.bin`.

    Args:
        model: What to write.
        directory: An existing folder.

    Raises:
        OSError: The files cannot be written.
    """
    numbers = {name: number for number, name in enumerate(CAMERA_MODELS)}
    with (directory / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(model.cameras)))
        for number, camera in model.cameras.items():
            file.write(struct.pack("<IiQQ", number, numbers[camera.model], camera.width, camera.height))
            file.write(struct.pack(f"<{len(camera.params)}d", *camera.params))
    with (directory / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(model.images)))
        for number, image in model.images.items():
            file.write(
                struct.pack("<I7dI", number, *_quaternion(image), *_translation(image), image.camera_id)
            )
            file.write(image.name.encode() + b"\0")
            seen = np.empty(len(image.xy), dtype=[("xy", "<f8", 2), ("point_id", "<u8")])
            seen["xy"], seen["point_id"] = image.xy, image.point_ids
            file.write(struct.pack("<Q", len(seen)) + seen.tobytes())
    with (directory / "points3D.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(model.points.xyz)))
        for number, xyz, rgb, error, track in model.points.rows():
            file.write(struct.pack("<Q3d3BdQ", number, *xyz, *rgb, error, len(track)))
            file.write(track.astype("<u4").tobytes())


def write_text(model: ColmapModel, directory: Path) -> None:
    """Write `cameras.txt`, `images.txt` and `points3D.txt`.

    Numbers are written in full. Readers of this format end a name at its first space, so that images
    with spaces in their names are safe in the binary files only.

    Args:
        model: What to write.
        directory: An existing folder.

    Raises:
        OSError: The files cannot be written.
    """
    with (directory / "cameras.txt").open("w", encoding="utf-8") as file:
        file.write("# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n")
        for number, camera in model.cameras.items():
            file.write(_line(number, camera.model, camera.width, camera.height, *camera.params))
    with (directory / "images.txt").open("w", encoding="utf-8") as file:
        file.write(
            "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[] as (X, Y, POINT3D_ID)\n"
        )
        for number, image in model.images.items():
            pose = *_quaternion(image), *_translation(image)
            file.write(_line(number, *pose, image.camera_id, image.name))
            seen = zip(image.xy.tolist(), image.point_ids.tolist(), strict=True)
            file.write(_line(*(value for xy, point in seen for value in (*xy, point))))
    with (directory / "points3D.txt").open("w", encoding="utf-8") as file:
        file.write("# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n")
        for number, xyz, rgb, error, track in model.points.rows():
            file.write(_line(number, *xyz.tolist(), *rgb.tolist(), error, *track.ravel().tolist()))


def read_cameras(directory: Path) -> tuple[dict[int, ColmapCamera], dict[int, ColmapImage]]:
    """Read cameras and poses of a model, binary or text; observations and points are passed over.

    Args:
        directory: Folder with `cameras` and `images`, `.bin` or `.txt`.

    Returns:
        Cameras and images by number.

    Raises:
        NopeSplatError: If there is no such model, or it is damaged.
    """
    for suffix, read_one, read_two in (
        ("bin", _read_binary_cameras, _read_binary_images),
        ("txt", _read_text_cameras, _read_text_images),
    ):
        cameras, images = (directory / f"{name}.{suffix}" for name in ("cameras", "images"))
        if cameras.is_file() and images.is_file():
            try:
                return read_one(cameras), read_two(images)
            except (OSError, ValueError, IndexError, struct.error) as error:
                raise NopeSplatError(
                    "unreadable-file", f"the COLMAP model in {directory} cannot be read ({error})"
                ) from error
    raise NopeSplatError(
        "missing-file", f"there is no COLMAP model (cameras.bin and images.bin, or .txt) in {directory}"
    )


def _quaternion(image: ColmapImage) -> tuple[float, float, float, float]:
    """Rotation as (w, x, y, z)."""
    x, y, z, w = Rotation.from_matrix(image.T_camera_world[:3, :3]).as_quat().tolist()
    return w, x, y, z


def _translation(image: ColmapImage) -> list[float]:
    return image.T_camera_world[:3, 3].tolist()


def _pose(w: float, x: float, y: float, z: float, *translation: float) -> Array:
    """World-to-camera transform from rotation and translation. (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    pose[:3, 3] = translation
    return pose


def _line(*values: object) -> str:
    """Values with spaces between them; numbers such that they read back as they are."""
    return " ".join(str(value) for value in values) + "\n"


def _unpack(file: BinaryIO, layout: str) -> tuple:
    """Read values without padding; `struct.error` at the end of the file."""
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _read_binary_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras, models = {}, list(CAMERA_MODELS)
    with path.open("rb") as file:
        for _ in range(*_unpack(file, "Q")):
            number, model_number, width, height = _unpack(file, "IiQQ")
            model = models[model_number]
            cameras[number] = ColmapCamera(model, width, height, _unpack(file, f"{CAMERA_MODELS[model]}d"))
    return cameras


def _read_binary_images(path: Path) -> dict[int, ColmapImage]:
    images = {}
    with path.open("rb") as file:
        for _ in range(*_unpack(file, "Q")):
            number, *pose, camera_id = _unpack(file, "I7dI")
            name = b"".join(iter(lambda: _unpack(file, "c")[0], b"\0")).decode()
            (num_observations,) = _unpack(file, "Q")
            file.seek(24 * num_observations, 1)
            images[number] = ColmapImage(name, camera_id, _pose(*pose))
    return images


def _read_text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for line in _content(path):
        if line:
            number, model, width, height, *params = line.split()
            cameras[int(number)] = ColmapCamera(model, int(width), int(height), tuple(map(float, params)))
    return cameras


def _read_text_images(path: Path) -> dict[int, ColmapImage]:
    images = {}
    for line in _content(path)[::2]:  # every other line holds observations, and may be empty
        number, *pose, camera_id, name = line.split(maxsplit=9)
        images[int(number)] = ColmapImage(name, int(camera_id), _pose(*map(float, pose)))
    return images


def _content(path: Path) -> list[str]:
    """Lines that are no comments; empty ones only between others."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]
