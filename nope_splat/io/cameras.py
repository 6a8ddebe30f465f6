"""Cameras by image name, read from the files of COLMAP, nerfstudio and others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.geometry.rigid import nearest_rotation
from nope_splat.io.colmap import read_cameras
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class NamedCamera:
    """Pose and intrinsics of one image, independent of its resolution."""

    T_world_camera: Array
    """Camera-to-world transform, OpenCV axes. (4, 4)."""
    focal: float
    """Focal length, the mean of x and y, divided by the longer side of the image."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image center, (x, y), divided by the longer side of the image."""
    radial: tuple[float, float] = (0.0, 0.0)
    """Radial distortion k1 and k2, as in `SharedPinhole`."""


def read_named_cameras(path: Path) -> dict[str, NamedCamera]:
    """Read cameras from a file or folder of any supported format.

    Args:
        path: A COLMAP model (its folder, or one that contains it as `sparse/0`), a nerfstudio
            `transforms.json`, or a ground truth file (see `read_ground_truth`).

    Returns:
        Cameras by image name: the file name without folders, if that is unique.

    Raises:
        NopeSplatError: If the format is unknown, the file is damaged, or it contains no camera.
    """
    if path.is_dir():
        cameras = _read_colmap(path)
    else:
        try:
            content = json.loads(path.read_text())
            frames = content["frames"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NopeSplatError(
                "unreadable-file",
                f"{path} contains no cameras ({type(error).__name__}: {error}); pass a transforms.json, a"
                " folder with a COLMAP model, or a ground truth file",
            ) from error
        if frames and "camera_to_world_opencv" in frames[0]:
            truth = read_ground_truth(path)
            intrinsics = truth.focal / max(truth.size), _offset(content), _radial(content)
            cameras = {name: NamedCamera(pose, *intrinsics) for name, pose in truth.T_world_camera.items()}
        else:
            cameras = _read_transforms(path, content)
    if not cameras:
        raise NopeSplatError("unreadable-file", f"{path} contains no cameras")
    return _shorten_names(cameras)


def _read_colmap(path: Path) -> dict[str, NamedCamera]:
    """Read a COLMAP model from a folder, or from its `sparse/0`."""
    is_model = any((path / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt"))
    cameras, images = read_cameras(path if is_model else path / "sparse" / "0")
    named = {}
    for image in images.values():
        camera = cameras[image.camera_id]
        longer_side = max(camera.width, camera.height)
        cx, cy = camera.principal_point
        offset = (cx - camera.width / 2) / longer_side, (cy - camera.height / 2) / longer_side
        named[image.name] = NamedCamera(
            np.linalg.inv(image.T_camera_world), camera.focal / longer_side, offset, camera.radial
        )
    return named


def _read_transforms(path: Path, content: dict[str, Any]) -> dict[str, NamedCamera]:
    """Convert the parsed content of a `transforms.json`, whose intrinsics are shared or per frame."""
    named = {}
    try:
        for frame in content["frames"]:
            values = {**content, **frame}
            if "fl_x" not in values:  # older files of NeRF and instant-ngp
                values["fl_x"] = values["w"] / 2 / np.tan(values["camera_angle_x"] / 2)
            fl_x = float(values["fl_x"])
            focal = (fl_x + float(values.get("fl_y", fl_x))) / 2 / max(values["w"], values["h"])
            pose = np.array(values["transform_matrix"], dtype=np.float64).reshape(4, 4)
            named[str(values["file_path"])] = NamedCamera(
                pose @ OPENCV_FROM_OPENGL, focal, _offset(values), _radial(values)
            )
    except (ValueError, KeyError, TypeError) as error:
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not a transforms.json with fl_x, w, h, file_path and transform_matrix:"
            f" {type(error).__name__} {error}",
        ) from error
    return named


def _offset(intrinsics: Mapping[str, Any]) -> tuple[float, float]:
    """Compute principal point minus image center, divided by the longer side; zero if not given."""
    width, height = intrinsics["w"], intrinsics["h"]
    cx, cy = (float(intrinsics.get(key, size / 2)) for key, size in (("cx", width), ("cy", height)))
    return (cx - width / 2) / max(width, height), (cy - height / 2) / max(width, height)


def _radial(intrinsics: Mapping[str, Any]) -> tuple[float, float]:
    """Return the radial distortion k1 and k2; zero if not given."""
    return float(intrinsics.get("k1", 0)), float(intrinsics.get("k2", 0))


def _shorten_names(cameras: dict[str, NamedCamera]) -> dict[str, NamedCamera]:
    """Strip the folders from image names; if file names repeat, strip the common folder only."""
    short_names = [PurePosixPath(name).name for name in cameras]
    if len(set(short_names)) < len(short_names):
        common = os.path.commonpath([PurePosixPath(name).parent for name in cameras])
        short_names = [PurePosixPath(name).relative_to(common).as_posix() for name in cameras]
    return dict(zip(short_names, cameras.values(), strict=True))


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth cameras of a scene."""

    T_world_camera: dict[str, Array]
    """Camera-to-world transforms, OpenCV axes, by file name without folders. (4, 4) each."""
    focal: float
    """Focal length, the mean of x and y, in pixels of an image of `size`."""
    size: tuple[int, int]
    """Width and height that the focal length refers to."""


def read_ground_truth(path: Path) -> GroundTruth:
    """Read ground truth cameras from a JSON file.

    The file contains `w`, `h`, `fl_x`, `fl_y`, and `frames` with `file_path` and `camera_to_world_opencv`.

    Args:
        path: The JSON file.

    Returns:
        The cameras, with rotations projected to the nearest orthonormal matrices.

    Raises:
        NopeSplatError: If the file cannot be read or a value is missing.
    """
    try:
        content = json.loads(path.read_text())
        poses = {}
        for frame in content["frames"]:
            pose = np.array(frame["camera_to_world_opencv"], dtype=np.float64)
            pose[:3, :3] = nearest_rotation(pose[:3, :3])
            poses[Path(frame["file_path"]).name] = pose
        focal = (content["fl_x"] + content["fl_y"]) / 2
        return GroundTruth(poses, focal, (content["w"], content["h"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not a ground truth file with w, h, fl_x, fl_y, and frames with file_path and"
            f" camera_to_world_opencv: {type(error).__name__} {error}",
        ) from error
