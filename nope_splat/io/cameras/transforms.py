"""Read a `transforms.json` in the format of nerfstudio, NeRF or instant-ngp, or a ground truth file.

The function `read_ground_truth` describes ground truth files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nope_splat.geometry.axes import OPENCV_FROM_OPENGL
from nope_splat.io.camera_checks import InvalidCamera, check_intrinsics, number, rigid_pose
from nope_splat.io.cameras.colmap_lenses import colmap_lens
from nope_splat.io.cameras.entries import CameraEntry, parsing_camera
from nope_splat.io.cameras.lenses import Lens, Size, UnsuitableLens, panorama_error

PERSPECTIVE = frozenset({"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE"})
"""Values of `camera_model` for perspective cameras. Their distortion coefficients are zero if the file does
not contain them."""
FISHEYE = frozenset(
    {
        "OPENCV_FISHEYE",
        "FISHEYE",
        "SIMPLE_FISHEYE",
        "SIMPLE_RADIAL_FISHEYE",
        "RADIAL_FISHEYE",
        "KANNALABRANDT",
    }
)
"""Values of `camera_model` for equidistant fisheye cameras with radial distortion k1 to k4."""
PANORAMAS = frozenset({"EQUIRECTANGULAR", "SPHERICAL"})
"""Values of `camera_model` for panoramas of the whole sphere."""
RADIAL = ("k1", "k2", "k3", "k4")


def read_frames(path: Path, content: dict[str, Any]) -> Iterator[CameraEntry]:
    """Convert the frames of a `transforms.json` or ground truth file to camera entries.

    Args:
        path: The file, for error messages.
        content: The JSON object of the file. Its intrinsics are defaults for frames that lack them.

    Yields:
        Camera entries. Poses are used as they are in the file: nerfstudio's `applied_transform` of the world
        is not undone.
    """
    for index, frame in enumerate(frames_of(content)):
        with parsing_camera(path, frame_name(frame, index)):
            if not isinstance(frame["file_path"], str):
                raise InvalidCamera("file_path is not a string")
            values = {**content, **frame}
            size = image_size(values)
            is_truth = "camera_to_world_opencv" in frame
            if is_truth:
                pose = rigid_pose(frame["camera_to_world_opencv"])
            else:
                pose = rigid_pose(frame["transform_matrix"]) @ OPENCV_FROM_OPENGL
            lens_for = partial(read_lens, values)
            entry = CameraEntry(frame["file_path"], pose, lens_for, size, is_upright=is_truth)
        yield entry


def frames_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entry `frames` of a JSON file, a list of JSON objects.

    Raises:
        InvalidCamera: If the entry is not a list of JSON objects.
    """
    frames = content["frames"]
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise InvalidCamera("its frames are not a list of JSON objects")
    return frames


def frame_name(frame: dict[str, Any], index: int) -> str:
    """Return the image name of a frame for messages, or "frame N" (N from 1) if the frame has no name."""
    name = frame.get("file_path")
    return name if isinstance(name, str) and name else f"frame {index + 1}"


def image_size(values: Mapping[str, Any]) -> Size | None:
    """Read width `w` and height `h` in pixels from a JSON object; None if it contains neither."""
    if "w" not in values and "h" not in values:
        return None
    return number(values, "w"), number(values, "h")


def read_lens(values: Mapping[str, Any], size: Size) -> Lens:
    """Read the lens of a frame.

    Args:
        values: JSON object with either the focal length `fl_x` in pixels or the horizontal field of view
            `camera_angle_x` in radians. Optional entries are `fl_y` in pixels (default: the focal length in
            x), `cx` and `cy` in pixels (default: the image center), `camera_model` (default: OPENCV), and
            distortion.
        size: Width and height of the image in pixels.

    Returns:
        The lens.

    Raises:
        InvalidCamera: If a value is missing, not finite or out of range.
        UnsuitableLens: If the camera model cannot be converted.
    """
    model = str(values.get("camera_model", "OPENCV")).upper()
    if model in PANORAMAS:
        raise panorama_error(model)
    width, height = size
    if "fl_x" in values:
        fl_x = number(values, "fl_x")
        fl_y = number(values, "fl_y", fl_x)
    else:  # older files of NeRF and instant-ngp
        fl_x = fl_y = _focal_of_angle(number(values, "camera_angle_x"), width)
    center = number(values, "cx", width / 2), number(values, "cy", height / 2)
    radial = tuple(number(values, key, 0.0) for key in RADIAL)
    tangential = number(values, "p1", 0.0), number(values, "p2", 0.0)
    check_intrinsics(size, (fl_x, fl_y), (*center, *radial, *tangential))
    if values.get("is_fisheye") is True and model in PERSPECTIVE:  # instant-ngp
        model = "OPENCV_FISHEYE"
    if model in PERSPECTIVE:  # as nerfstudio, which gives k3 and k4 to r^6 and r^8
        return Lens(model, (fl_x, fl_y), center, _trimmed(radial), tangential=tangential)
    if model in FISHEYE:
        return Lens(
            model, (fl_x, fl_y), center, _trimmed(radial), tangential=tangential, projection="equidistant"
        )
    if model == "FULL_OPENCV":
        others = [number(values, key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")]
        check_intrinsics(size, (fl_x, fl_y), others)
        return colmap_lens(model, (fl_x, fl_y, *center, *others))
    if model == "FISHEYE624":
        others = _distortion_params(values)
        check_intrinsics(size, (fl_x, fl_y), others)
        return colmap_lens("RAD_TAN_THIN_PRISM_FISHEYE", (fl_x, fl_y, *center, *others))
    raise UnsuitableLens(model, "only perspective and fisheye models are supported")


def _focal_of_angle(angle: float, width: float) -> float:
    """Return the focal length in pixels for a horizontal field of view in radians and a width in pixels."""
    if not 0 < angle < math.pi:
        raise InvalidCamera(f"camera_angle_x is {angle:g}, but must be between 0 and pi")
    return width / 2 / math.tan(angle / 2)


def _distortion_params(values: Mapping[str, Any]) -> list[float]:
    """Read the entry `distortion_params` of FISHEYE624: k0 to k5, p0, p1, s0 to s3."""
    params = values["distortion_params"]
    if not isinstance(params, list) or len(params) != 12:
        raise InvalidCamera("its distortion_params are not a list of 12 numbers")
    return [number({"distortion_params": value}, "distortion_params") for value in params]


def _trimmed(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """Remove trailing zeros from distortion coefficients."""
    last = max((index for index, value in enumerate(coefficients) if value), default=-1)
    return coefficients[: last + 1]
