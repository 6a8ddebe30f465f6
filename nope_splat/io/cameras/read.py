"""Read cameras by image name from COLMAP models, nerfstudio's `transforms.json` and ground truth files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Container, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.geometry.rigid import invert
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, number, parsing, rigid_pose
from nope_splat.io.colmap import read_cameras
from nope_splat.io.images import UNPRINTABLE
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class NamedCamera:
    """Pose and intrinsics of one image. Focal length and principal point are relative to the image size."""

    T_world_camera: Array
    """Camera-to-world transform, OpenCV axes. (4, 4)."""
    focal: float
    """Focal length (mean of x and y), divided by the longer side of the image."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image center, (x, y), divided by the longer side of the image."""
    radial: tuple[float, float] = (0.0, 0.0)
    """Radial distortion k1 and k2, as in COLMAP's RADIAL model."""


def read_named_cameras(path: Path) -> dict[str, NamedCamera]:
    """Read cameras from a file or folder of any supported format.

    Args:
        path: A nerfstudio `transforms.json`, a ground truth file (see `read_ground_truth`), the folder of a
            COLMAP model, or a folder that contains a COLMAP model as `sparse/0`.

    Returns:
        Cameras by image name, with orthonormal rotations. Image names are file names without folders. If two
        images have the same file name, all image names are instead paths relative to the deepest folder that
        contains all images.

    Raises:
        NopeSplatError: If the format is unknown, the file is damaged or contains no camera, an image name
            occurs twice, a pose is mirrored or not finite, an image size is not positive, or a focal length
            is implausible for the image size.
    """
    if path.is_dir():
        cameras = _read_colmap(path)
    else:
        content, frames = _read_json(path)
        cameras = _read_frames(path, content, frames)
    if not cameras:
        raise NopeSplatError("unreadable-file", f"{path} contains no cameras")
    with parsing(f"the photo names in {path} cannot be used", "give every camera a different, relative name"):
        return _shorten_names(cameras)


def _read_colmap(path: Path) -> dict[str, NamedCamera]:
    """Read a COLMAP model from a folder or, if the folder has no model, from its subfolder `sparse/0`.

    Args:
        path: The folder.

    Returns:
        Cameras, by the image names that are stored in the model.
    """
    is_model = any((path / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt"))
    cameras, images = read_cameras(path if is_model else path / "sparse" / "0")
    named = {}
    for image in images.values():
        with _parsing_camera(path, image.name):
            camera = cameras[image.camera_id]
            size = camera.width, camera.height
            check_intrinsics(size, camera.focals, camera.params)
            intrinsics = _normalize(size, camera.focal, camera.principal_point, camera.radial)
            _require_new(image.name, named)
            named[image.name] = NamedCamera(invert(rigid_pose(image.T_camera_world)), *intrinsics)
    return named


def _read_json(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read a JSON file with camera frames.

    Args:
        path: A `transforms.json` or a ground truth file.

    Returns:
        The JSON object, and the list of JSON objects in its entry `frames`.
    """
    with parsing(
        f"{path} contains no cameras",
        "pass a transforms.json, a folder with a COLMAP model, or a ground truth file",
    ):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise InvalidCamera("it is not a JSON object")
        frames = content["frames"]
        if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
            raise InvalidCamera("its frames are not a list of JSON objects")
        return content, frames


def _read_frames(path: Path, content: dict[str, Any], frames: list[dict[str, Any]]) -> dict[str, NamedCamera]:
    """Convert the frames of a `transforms.json` or ground truth file to cameras.

    Args:
        path: The file, for error messages.
        content: The JSON object of the file. Each intrinsic parameter in this object applies to the frames
            that do not contain this parameter.
        frames: Entry `frames` of the JSON object.

    Returns:
        Cameras, by the entry `file_path` of their frames.
    """
    named: dict[str, NamedCamera] = {}
    for index, frame in enumerate(frames):
        with _parsing_frame(path, frame, index):
            if not isinstance(frame["file_path"], str):
                raise InvalidCamera("file_path is not a string")
            intrinsics = _normalize(*_read_intrinsics({**content, **frame}))
            if "camera_to_world_opencv" in frame:
                pose = rigid_pose(frame["camera_to_world_opencv"])
            else:
                pose = rigid_pose(frame["transform_matrix"]) @ OPENCV_FROM_OPENGL
            _require_new(frame["file_path"], named)
            named[frame["file_path"]] = NamedCamera(pose, *intrinsics)
    return named


def _read_intrinsics(
    values: Mapping[str, Any],
) -> tuple[tuple[float, float], float, tuple[float, float], tuple[float, float]]:
    """Read the intrinsics of a frame.

    Args:
        values: JSON object with image width `w` and height `h` in pixels, and either focal length `fl_x` in
            pixels or horizontal field of view `camera_angle_x` in radians. Optional entries are `fl_y` in
            pixels (default: the focal length in x), `cx` and `cy` in pixels (default: the image center), and
            `k1` and `k2` (default: 0).

    Returns:
        Image size (width, height), focal length (mean of x and y) and principal point (x, y), all in pixels;
        and radial distortion (k1, k2).
    """
    if "fl_x" in values:
        width, height, fl_x = (number(values, key) for key in ("w", "h", "fl_x"))
    else:  # older files of NeRF and instant-ngp
        angle, width, height = (number(values, key) for key in ("camera_angle_x", "w", "h"))
        if not 0 < angle < math.pi:
            raise InvalidCamera(f"camera_angle_x is {angle:g}, but must be between 0 and pi")
        fl_x = width / 2 / math.tan(angle / 2)
    fl_y = number(values, "fl_y", fl_x)
    center = number(values, "cx", width / 2), number(values, "cy", height / 2)
    radial = number(values, "k1", 0.0), number(values, "k2", 0.0)
    check_intrinsics((width, height), (fl_x, fl_y), (*center, *radial))
    return (width, height), (fl_x + fl_y) / 2, center, radial


def _normalize(
    size: tuple[float, float], focal: float, center: tuple[float, float], radial: tuple[float, float]
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Convert intrinsics from pixels to fractions of the longer image side.

    Args:
        size: Width and height in pixels.
        focal: Focal length in pixels.
        center: Principal point (x, y) in pixels.
        radial: Radial distortion k1 and k2, returned unchanged.

    Returns:
        Focal length divided by the longer image side; principal point minus image center, (x, y), divided by
        the longer image side; and `radial`. These are the fields `focal`, `offset` and `radial` of a
        `NamedCamera`.
    """
    longer_side = max(size)
    offset = (center[0] - size[0] / 2) / longer_side, (center[1] - size[1] / 2) / longer_side
    return focal / longer_side, offset, radial


def _parsing_camera(path: Path, name: str) -> AbstractContextManager[None]:
    """Create the context manager `parsing`, with a message that contains the image name and the file path."""
    photo = " ".join(name[:200].split())
    return parsing(f"the camera of {photo} in {path} cannot be used", "correct it or remove it")


def _parsing_frame(path: Path, frame: dict[str, Any], index: int) -> AbstractContextManager[None]:
    """Create the context manager `parsing`, with a message that names the image of a JSON frame.

    If the frame has no image name, the message contains the frame number, `index + 1`, instead.
    """
    name = frame.get("file_path")
    return _parsing_camera(path, name if isinstance(name, str) and name else f"frame {index + 1}")


def _require_new(name: str, others: Container[str]) -> None:
    """Check that an image name is usable, and that no other camera has the same image name.

    Args:
        name: Image name of a camera.
        others: Image names of the cameras read before.

    Raises:
        InvalidCamera: If the name is empty, contains control characters, or is already in `others`.
    """
    if not PurePosixPath(name).name:
        raise InvalidCamera("it has no photo name")
    if UNPRINTABLE.search(name):  # `find_images` skips files with such names
        raise InvalidCamera("its photo name contains control characters")
    if name in others:
        raise InvalidCamera("another camera has the same photo name")


def _shorten_names(cameras: dict[str, NamedCamera]) -> dict[str, NamedCamera]:
    """Shorten image paths to file names; if two file names are equal, only remove the common parent folder.

    Args:
        cameras: Cameras by image path.

    Returns:
        The same cameras by shortened name.

    Raises:
        InvalidCamera: If two shortened names are equal. Also if two file names are equal and some paths are
            absolute while others are relative.
    """
    short_names = [PurePosixPath(name).name for name in cameras]
    if len(set(short_names)) < len(short_names):
        if len({PurePosixPath(name).is_absolute() for name in cameras}) == 2:
            raise InvalidCamera("file names repeat, and some paths are absolute and others relative")
        common = os.path.commonpath([PurePosixPath(name).parent for name in cameras])
        short_names = [PurePosixPath(name).relative_to(common).as_posix() for name in cameras]
    if len(set(short_names)) < len(short_names):
        raise InvalidCamera("two paths are the same")
    return dict(zip(short_names, cameras.values(), strict=True))


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth poses and focal length of a scene."""

    T_world_camera: dict[str, Array]
    """Camera-to-world transforms, OpenCV axes, by file name without folders. (4, 4) each."""
    focal: float
    """Focal length (mean of x and y) in pixels, for an image with the dimensions `size`."""
    size: tuple[int, int]
    """Width and height, in pixels, of the image to which the focal length refers."""


def read_ground_truth(path: Path) -> GroundTruth:
    """Read ground truth cameras from a JSON file.

    The file contains `w`, `h`, `fl_x`, `fl_y` (pixels), and `frames` with `file_path` and
    `camera_to_world_opencv`, a camera-to-world transform with OpenCV axes (4, 4).

    Args:
        path: The JSON file.

    Returns:
        Poses and focal length; the rotation of each pose is replaced by the nearest orthonormal matrix.

    Raises:
        NopeSplatError: If the file cannot be read, a value is missing or impossible, or two frames have the
            same file name.
    """
    content, frames = _read_json(path)
    with parsing(f"{path} is not a ground truth file", "it needs w, h, fl_x, fl_y and frames"):
        size, focal, *_ = _read_intrinsics(content)
    poses: dict[str, Array] = {}
    for index, frame in enumerate(frames):
        with _parsing_frame(path, frame, index):
            name = PurePosixPath(frame["file_path"]).name
            _require_new(name, poses)
            poses[name] = rigid_pose(frame["camera_to_world_opencv"])
    return GroundTruth(poses, focal, (round(size[0]), round(size[1])))
