"""Read and write COLMAP models (the files cameras, images and points3D) in binary and text format.

COLMAP has the same conventions as this package: the center of the first pixel is (0.5, 0.5), and camera axes
are x right, y down, z forward.
"""

from __future__ import annotations

import math
import re
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
from nope_splat.io.camera_checks import InvalidCamera, parsing
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
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
    "SIMPLE_DIVISION": 4,
    "DIVISION": 5,
    "SIMPLE_FISHEYE": 3,
    "FISHEYE": 4,
    "EUCM": 6,
    "EQUIRECTANGULAR": 2,
}
"""Number of parameters of each camera model, in the order of COLMAP's model IDs (from 0)."""
SINGLE_FOCAL_MODELS = frozenset(
    {
        "SIMPLE_PINHOLE",
        "SIMPLE_RADIAL",
        "RADIAL",
        "SIMPLE_RADIAL_FISHEYE",
        "RADIAL_FISHEYE",
        "SIMPLE_DIVISION",
        "SIMPLE_FISHEYE",
    }
)
"""Camera models whose parameters start with a single focal length; other models start with fx and fy, except
EQUIRECTANGULAR, whose parameters are width and height."""
MAX_NAME_LENGTH = 4096
"""Maximum length of an image name in bytes, including the terminating zero byte. A longer name indicates a
damaged file. The limit is that of paths on Linux."""
TEXT_IMAGE = re.compile(r"[ \t]*" + 8 * r"([^ \t]+)[ \t]+" + r"([^ \t]+)[ \t](.+)")
"""Pattern of an image line in `images.txt`: image ID, quaternion (4 numbers), translation (3), camera ID and,
after one space or tab, the name."""


@dataclass(frozen=True)
class ColmapCamera:
    """COLMAP camera: the intrinsics of images of one size."""

    model: str
    """Name of the camera model, a key of `CAMERA_MODELS`."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""
    params: tuple[float, ...]
    """Parameters in COLMAP's order: focal length(s), principal point (both in pixels) and distortion."""

    @property
    def focals(self) -> tuple[float, ...]:
        """Focal lengths in pixels: one value for models with a single focal length, else fx and fy."""
        return self.params[:1] if self.model in SINGLE_FOCAL_MODELS else self.params[:2]

    @property
    def focal(self) -> float:
        """Focal length in pixels; the mean of fx and fy if the model has both."""
        return sum(self.focals) / len(self.focals)

    @property
    def principal_point(self) -> tuple[float, float]:
        """Principal point (x, y), in pixels."""
        index = 1 if self.model in SINGLE_FOCAL_MODELS else 2
        return self.params[index], self.params[index + 1]


@dataclass(frozen=True)
class ColmapImage:
    """COLMAP image: pose and observations of a registered image."""

    name: str
    """Path of the image file relative to the image folder."""
    camera_id: int
    """ID of the camera with the intrinsics of the image."""
    T_camera_world: Array
    """World-to-camera transform, OpenCV axes. (4, 4)."""
    xy: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """Positions of the K observations of 3D points (COLMAP's `points2D`), x and y in pixels. (K, 2)."""
    point_ids: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """ID of the 3D point of each observation. (K,)."""


@dataclass(frozen=True)
class ColmapPoints:
    """The 3D points of a COLMAP model and their tracks. The IDs of the P points are 1 to P."""

    xyz: Array
    """World coordinates of the points. (P, 3)."""
    rgb: NDArray[np.uint8]
    """Colors of the points, RGB, 0 to 255. (P, 3)."""
    errors: Array
    """Mean reprojection error of each point in pixels; -1 (`UNKNOWN_ERROR`) if the mean is infinite. (P,)."""
    track_starts: Indices
    """First row of each point's track in `tracks`; the last element is the number of rows. (P + 1,)."""
    tracks: Indices
    """Observations of all points, sorted by point. Each row contains the image ID and the index of the
    observation in the `points2D` of this image. (O, 2)."""

    def rows(self) -> Iterator[tuple[int, Array, NDArray[np.uint8], float, Indices]]:
        """Iterate over the points with their colors, errors and tracks.

        Yields:
            For each point: ID, world coordinates (3,), RGB color from 0 to 255 (3,), mean reprojection error
            in pixels, and track (track length, 2): image ID and `points2D` index of each observation.
        """
        for index, (start, end) in enumerate(pairwise(self.track_starts.tolist())):
            yield (
                index + 1,
                self.xyz[index],
                self.rgb[index],
                float(self.errors[index]),
                self.tracks[start:end],
            )


@dataclass(frozen=True)
class ColmapModel:
    """COLMAP model: cameras, registered images and 3D points of a sparse reconstruction."""

    cameras: Mapping[int, ColmapCamera]
    """Cameras by COLMAP camera ID."""
    images: Mapping[int, ColmapImage]
    """Registered images by COLMAP image ID."""
    points: ColmapPoints
    """3D points and their tracks."""


def write_binary(model: ColmapModel, directory: Path) -> None:
    """Write a COLMAP model in binary format: `cameras.bin`, `images.bin` and `points3D.bin`.

    Args:
        model: The model.
        directory: Folder to write to; it must exist.

    Raises:
        OSError: If the files cannot be written.
    """
    model_ids = {name: model_id for model_id, name in enumerate(CAMERA_MODELS)}
    with (directory / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(model.cameras)))
        for camera_id, camera in model.cameras.items():
            file.write(struct.pack("<IiQQ", camera_id, model_ids[camera.model], camera.width, camera.height))
            file.write(struct.pack(f"<{len(camera.params)}d", *camera.params))
    with (directory / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(model.images)))
        for image_id, image in model.images.items():
            file.write(
                struct.pack("<I7dI", image_id, *_quaternion(image), *_translation(image), image.camera_id)
            )
            file.write(image.name.encode() + b"\0")
            points2d = np.empty(len(image.xy), dtype=[("xy", "<f8", 2), ("point_id", "<u8")])
            points2d["xy"], points2d["point_id"] = image.xy, image.point_ids
            file.write(struct.pack("<Q", len(points2d)) + points2d.tobytes())
    with (directory / "points3D.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(model.points.xyz)))
        for point_id, xyz, rgb, error, track in model.points.rows():
            file.write(struct.pack("<Q3d3BdQ", point_id, *xyz, *rgb, error, len(track)))
            file.write(track.astype("<u4").tobytes())


def write_text(model: ColmapModel, directory: Path) -> None:
    """Write a COLMAP model in text format: `cameras.txt`, `images.txt` and `points3D.txt`.

    Numbers are written with full precision. COLMAP and other programs that read the text format cut image
    names at the first space, so use the binary format for names with spaces.

    Args:
        model: The model.
        directory: Folder to write to; it must exist.

    Raises:
        OSError: If the files cannot be written.
    """
    with (directory / "cameras.txt").open("w", encoding="utf-8") as file:
        file.write("# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n")
        for camera_id, camera in model.cameras.items():
            file.write(_line(camera_id, camera.model, camera.width, camera.height, *camera.params))
    with (directory / "images.txt").open("w", encoding="utf-8") as file:
        file.write(
            "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[] as (X, Y, POINT3D_ID)\n"
        )
        for image_id, image in model.images.items():
            pose = *_quaternion(image), *_translation(image)
            file.write(_line(image_id, *pose, image.camera_id, image.name))
            points2d = zip(image.xy.tolist(), image.point_ids.tolist(), strict=True)
            file.write(_line(*(value for xy, point_id in points2d for value in (*xy, point_id))))
    with (directory / "points3D.txt").open("w", encoding="utf-8") as file:
        file.write("# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n")
        for point_id, xyz, rgb, error, track in model.points.rows():
            file.write(_line(point_id, *xyz.tolist(), *rgb.tolist(), error, *track.ravel().tolist()))


def read_cameras(directory: Path) -> tuple[dict[int, ColmapCamera], dict[int, ColmapImage]]:
    """Read cameras and image poses of a COLMAP model, binary or text; observations and points are skipped.

    Args:
        directory: Folder that contains `cameras.bin` and `images.bin`, or `cameras.txt` and `images.txt`. If
            both pairs exist, the binary files are read.

    Returns:
        Cameras by camera ID, and images by image ID. The `xy` and `point_ids` of images are empty.

    Raises:
        NopeSplatError: If the folder contains no model, or a file is damaged. Implausible intrinsics or poses
            raise no error.
    """
    for suffix, read_camera_file, read_image_file in (
        ("bin", _read_binary_cameras, _read_binary_images),
        ("txt", _read_text_cameras, _read_text_images),
    ):
        cameras, images = (directory / f"{name}.{suffix}" for name in ("cameras", "images"))
        if cameras.is_file() and images.is_file():
            with parsing(
                f"the COLMAP model in {directory} cannot be read", "export the model again or pass another"
            ):
                model = read_camera_file(cameras), read_image_file(images)
                _require_cameras(*model)
                return model
    raise NopeSplatError(
        "missing-file",
        f"no COLMAP model (cameras.bin and images.bin, or .txt) in {directory}; check the path",
    )


def _require_cameras(cameras: Mapping[int, ColmapCamera], images: Mapping[int, ColmapImage]) -> None:
    """Check that the camera of every image exists; raise `InvalidCamera` otherwise."""
    for image in images.values():
        if image.camera_id not in cameras:
            raise InvalidCamera(f"{image.name} refers to camera {image.camera_id}, which does not exist")


def _quaternion(image: ColmapImage) -> tuple[float, float, float, float]:
    """Return the world-to-camera rotation of an image as a unit quaternion (w, x, y, z)."""
    x, y, z, w = Rotation.from_matrix(image.T_camera_world[:3, :3]).as_quat().tolist()
    return w, x, y, z


def _translation(image: ColmapImage) -> list[float]:
    """Return the translation (x, y, z) of an image's world-to-camera transform."""
    return image.T_camera_world[:3, 3].tolist()


def _pose(w: float, x: float, y: float, z: float, *translation: float) -> Array:
    """Build a world-to-camera transform (4, 4) from a quaternion (w, x, y, z) and a translation (x, y, z).

    The quaternion need not have unit length.
    """
    if not 0 < math.hypot(w, x, y, z) < math.inf:
        raise InvalidCamera("a quaternion is zero or not finite")
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    pose[:3, 3] = translation
    return pose


def _line(*values: object) -> str:
    """Format a line of a text file: values separated by spaces, floats with full precision."""
    return " ".join(str(value) for value in values) + "\n"


def _unpack(file: BinaryIO, layout: str) -> tuple:
    """Read little-endian values without padding; raise `InvalidCamera` if the file ends too early.

    `layout` is a format string of the module `struct`, without the character for the byte order.
    """
    size = struct.calcsize(f"<{layout}")
    content = file.read(size)
    if len(content) < size:
        raise InvalidCamera(f"{Path(file.name).name} is cut off")
    return struct.unpack(f"<{layout}", content)


def _require_end(file: BinaryIO) -> None:
    """Check that a file has been read to its end; raise `InvalidCamera` otherwise."""
    if file.read(1):
        raise InvalidCamera(f"{Path(file.name).name} contains data after its last entry")


def _read_binary_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Read the cameras in `cameras.bin`, by camera ID."""
    cameras, models = {}, list(CAMERA_MODELS)
    with path.open("rb") as file:
        for _ in range(*_unpack(file, "Q")):
            camera_id, model_id, width, height = _unpack(file, "IiQQ")
            if not 0 <= model_id < len(models):
                raise InvalidCamera(f"camera {camera_id} has the unknown model {model_id}")
            model = models[model_id]
            cameras[camera_id] = ColmapCamera(model, width, height, _unpack(file, f"{CAMERA_MODELS[model]}d"))
        _require_end(file)
    return cameras


def _read_binary_images(path: Path) -> dict[int, ColmapImage]:
    """Read the images in `images.bin`, by image ID; their observations (24 bytes each) are skipped."""
    images = {}
    with path.open("rb") as file:
        size = path.stat().st_size
        for _ in range(*_unpack(file, "Q")):
            image_id, *pose, camera_id = _unpack(file, "I7dI")
            name = _read_name(file)
            (num_observations,) = _unpack(file, "Q")
            if file.tell() + 24 * num_observations > size:
                raise InvalidCamera(f"{path.name} is cut off in the observations of {name}")
            file.seek(24 * num_observations, 1)
            images[image_id] = ColmapImage(name, camera_id, _pose(*pose))
        _require_end(file)
    return images


def _read_name(file: BinaryIO) -> str:
    """Read a UTF-8 name, and move the file position to the byte after the zero byte that ends the name."""
    start = file.tell()
    name, end, _ = file.read(MAX_NAME_LENGTH).partition(b"\0")
    if not end:
        raise InvalidCamera(f"{Path(file.name).name} has an image name that is not terminated")
    file.seek(start + len(name) + 1)
    return name.decode()


def _read_text_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Read the cameras in `cameras.txt`, by camera ID."""
    cameras = {}
    for line in _lines(path):
        if not _is_comment(line):
            camera_id, model, width, height, *params = line.split()
            if model not in CAMERA_MODELS:
                raise InvalidCamera(f"camera {camera_id} has the unknown model {model}")
            if len(params) != CAMERA_MODELS[model]:
                raise InvalidCamera(
                    f"camera {camera_id} has {len(params)} parameters, but {model} needs"
                    f" {CAMERA_MODELS[model]}"
                )
            cameras[int(camera_id)] = ColmapCamera(model, int(width), int(height), tuple(map(float, params)))
    return cameras


def _read_text_images(path: Path) -> dict[int, ColmapImage]:
    """Read the images in `images.txt`, by image ID.

    The line after each image, which contains its observations and may be empty, is skipped.
    """
    images = {}
    lines = _lines(path)
    for line in lines:
        if _is_comment(line):
            continue
        fields = TEXT_IMAGE.fullmatch(line)
        if fields is None:
            raise InvalidCamera(f"{path.name} has a line that does not describe an image: {line[:60]}")
        image_id, *pose, camera_id, name = fields.groups()
        if len(next(lines, "").split()) % 3:
            raise InvalidCamera(
                f"the line after {name} in {path.name} is not a list of observations (X Y POINT3D_ID ...)"
            )
        images[int(image_id)] = ColmapImage(name, int(camera_id), _pose(*map(float, pose)))
    return images


def _is_comment(line: str) -> bool:
    """Check whether a line of a text file is empty or a comment (`#`)."""
    return not line.strip() or line.lstrip().startswith("#")


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, split only at line feeds.

    Image names may contain other line separators, which must not split a line.
    """
    yield from path.read_text(encoding="utf-8").split("\n")
