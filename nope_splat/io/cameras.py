"""Cameras by image, from the files of any tool, and how two such files compare."""

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
from nope_splat.io.colmap import read_cameras
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class NamedCamera:
    """One image's camera."""

    T_world_camera: Array
    """Camera-to-world transform, OpenCV axes. (4, 4)."""
    focal: float
    """Focal length, the mean of x and y, as a share of the image's longer side, whatever the resolution."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Principal point minus image center, (x, y) as shares of the image's longer side."""
    radial: tuple[float, float] = (0.0, 0.0)
    """Radial distortion k1 and k2, as of `SharedPinhole`."""


def read_named_cameras(path: Path) -> dict[str, NamedCamera]:
    """Read cameras in whichever format they are.

    Args:
        path: A COLMAP model (its folder, or one with `sparse/0` in it), nerfstudio's `transforms.json`, or a
            ground truth file (see `read_ground_truth`).

    Returns:
        Cameras by name of the image: that of the file, without folders, where this tells them apart.

    Raises:
        NopeSplatError: If it is none of these, is damaged, or holds no camera.
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
                f"{path} holds no cameras ({type(error).__name__}: {error}); give a transforms.json, a folder"
                " with a COLMAP model, or a ground truth file",
            ) from error
        if frames and "camera_to_world_opencv" in frames[0]:
            truth = read_ground_truth(path)
            own = truth.focal / max(truth.size), _offset(content), _radial(content)
            cameras = {name: NamedCamera(pose, *own) for name, pose in truth.T_world_camera.items()}
        else:
            cameras = _read_transforms(path, content)
    if not cameras:
        raise NopeSplatError("unreadable-file", f"{path} holds no cameras")
    return _shorten(cameras)


def _read_colmap(path: Path) -> dict[str, NamedCamera]:
    here = any((path / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt"))
    cameras, images = read_cameras(path if here else path / "sparse" / "0")
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
    named = {}
    try:
        for frame in content["frames"]:
            own = {**content, **frame}
            if "fl_x" not in own:  # the older files of NeRF and instant-ngp
                own["fl_x"] = own["w"] / 2 / np.tan(own["camera_angle_x"] / 2)
            fl_x = float(own["fl_x"])
            focal = (fl_x + float(own.get("fl_y", fl_x))) / 2 / max(own["w"], own["h"])
            pose = np.array(own["transform_matrix"], dtype=np.float64).reshape(4, 4)
            named[str(own["file_path"])] = NamedCamera(
                pose @ OPENCV_FROM_OPENGL,
                focal,
                _offset(own),
                _radial(own),
            )
    except (ValueError, KeyError, TypeError) as error:
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not a transforms.json with fl_x, w, h, file_path and transform_matrix:"
            f" {type(error).__name__} {error}",
        ) from error
    return named


def _offset(intrinsics: Mapping[str, Any]) -> tuple[float, float]:
    """Principal point minus image center as shares of the longer side; zero where it is not given."""
    width, height = intrinsics["w"], intrinsics["h"]
    cx, cy = (float(intrinsics.get(key, size / 2)) for key, size in (("cx", width), ("cy", height)))
    return (cx - width / 2) / max(width, height), (cy - height / 2) / max(width, height)


def _radial(intrinsics: Mapping[str, Any]) -> tuple[float, float]:
    """Radial distortion k1 and k2; zero where it is not given."""
    return float(intrinsics.get("k1", 0)), float(intrinsics.get("k2", 0))


def _shorten(cameras: dict[str, NamedCamera]) -> dict[str, NamedCamera]:
    """Names without folders, or without those that all share where images have the same file name."""
    short = [PurePosixPath(name).name for name in cameras]
    if len(set(short)) < len(short):
        shared = os.path.commonpath([PurePosixPath(name).parent for name in cameras])
        short = [PurePosixPath(name).relative_to(shared).as_posix() for name in cameras]
    return dict(zip(short, cameras.values(), strict=True))


@dataclass(frozen=True)
class GroundTruth:
    """True cameras of a scene."""

    T_world_camera: dict[str, Array]
    """File name of the image, without folders, to camera-to-world transform, OpenCV axes. (4, 4)."""
    focal: float
    """Focal length, the mean of x and y, in pixels of images of `size`."""
    size: tuple[int, int]
    """Width and height of the images."""


def read_ground_truth(path: Path) -> GroundTruth:
    """Read true cameras: `w`, `h`, `fl_x`, `fl_y` and `frames` with `camera_to_world_opencv` matrices.

    Args:
        path: The json file.

    Returns:
        The true cameras, with rotations made exactly orthonormal.

    Raises:
        NopeSplatError: If the file cannot be read or lacks one of these.
    """
    try:
        content = json.loads(path.read_text())
        poses = {}
        for frame in content["frames"]:
            pose = np.array(frame["camera_to_world_opencv"], dtype=np.float64)
            left, _, right = np.linalg.svd(pose[:3, :3])
            pose[:3, :3] = left @ right
            poses[Path(frame["file_path"]).name] = pose
        focal = (content["fl_x"] + content["fl_y"]) / 2
        return GroundTruth(poses, focal, (content["w"], content["h"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not a ground truth file (w, h, fl_x, fl_y, frames with file_path and"
            f" camera_to_world_opencv): {type(error).__name__} {error}",
        ) from error
