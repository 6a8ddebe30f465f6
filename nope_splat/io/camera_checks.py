"""Check the content of camera files: numbers, poses and intrinsics.

The checks raise `InvalidCamera` with a reason, and `parsing` converts it to an error for the user.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.rigid import nearest_rotation
from nope_splat.utils.typing import Array

LARGEST_NUMBER = 1e30
"""Larger numbers occur in damaged files only, and products of them would overflow."""
FOCAL_RATIOS = (1e-3, 1e4)
"""Range of focal lengths, as shares of the longer side: fields of view from 0.006 to 179.9 degrees."""
MAX_ROTATION_ERROR = 0.02
"""Maximum relative difference between the lengths of the axes of a rotation: two decimals per entry."""


class InvalidCamera(ValueError):
    """Reason why a camera, or its file, cannot be used: the part of an error message in parentheses."""


@contextmanager
def parsing(source: str, advice: str) -> Iterator[None]:
    """Convert everything that reading a damaged file raises to one error for the user.

    Args:
        source: What is wrong, with the file, for example `"cameras.json is not a transforms.json"`.
        advice: What to do.

    Yields:
        Nothing.

    Raises:
        NopeSplatError: If the block raises.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise NopeSplatError("unreadable-file", f"{source} ({_reason(error)}); {advice}") from error


def number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return a number of a JSON object.

    Args:
        values: The object.
        key: Name of the number.
        default: Value if there is none; None if it is required.

    Raises:
        KeyError: If a required number is missing.
        InvalidCamera: If the value is not a finite number.
    """
    value = values[key] if default is None else values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidCamera(f"{key} is {_brief(value)}, which is not a number")
    try:
        result = float(value)
    except (OverflowError, ValueError):
        result = math.nan
    if not abs(result) < LARGEST_NUMBER:
        raise InvalidCamera(f"{key} is {_brief(value)}, which is not a finite number")
    return result


def rigid_pose(matrix: object) -> Array:
    """Check a pose, and make its rotation orthonormal; files contain rounded and scaled ones.

    Args:
        matrix: Transform between camera and world. (4, 4).

    Returns:
        The transform with the nearest proper rotation. (4, 4).

    Raises:
        InvalidCamera: If the matrix has another shape, or is no rotation with a translation.
    """
    pose = np.array(matrix, dtype=np.float64).reshape(4, 4)
    if not (np.abs(pose) < LARGEST_NUMBER).all():
        raise InvalidCamera("its pose contains a number that is not finite")
    if not np.allclose(pose[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        raise InvalidCamera("the last row of its pose is not 0 0 0 1; check whether the matrix is transposed")
    lengths = np.linalg.svd(pose[:3, :3], compute_uv=False)
    if not lengths[2] > (1 - MAX_ROTATION_ERROR) * lengths[0]:
        raise InvalidCamera("its pose has no rotation: its axes are not orthogonal, or not equally long")
    if np.linalg.det(pose[:3, :3] / lengths[0]) < 0:
        raise InvalidCamera("its pose is mirrored, a rotation with determinant -1; check the axes")
    pose[:3, :3] = nearest_rotation(pose[:3, :3])
    return pose


def check_intrinsics(
    size: tuple[float, float], focals: Sequence[float], others: Sequence[float] = ()
) -> None:
    """Check the intrinsics of a camera.

    Args:
        size: Width and height in pixels.
        focals: Focal lengths in pixels.
        others: Principal point and distortion.

    Raises:
        InvalidCamera: If a number is not finite, or a size or focal length is not positive or impossible.
    """
    width, height = size
    if not (0 < width < LARGEST_NUMBER and 0 < height < LARGEST_NUMBER):
        # An integer from a text file may be too large for a float.
        sides = " x ".join(f"{min(side, LARGEST_NUMBER):g}" for side in size)
        raise InvalidCamera(f"its size is {sides} pixels, but must be positive and finite")
    shortest, longest = (ratio * max(size) for ratio in FOCAL_RATIOS)
    for focal in focals:
        if not 0 < focal < LARGEST_NUMBER:
            raise InvalidCamera(f"its focal length is {focal:g} pixels, but must be positive and finite")
        if not shortest < focal < longest:
            raise InvalidCamera(
                f"its focal length of {focal:g} pixels is impossible for {width:g} x {height:g} pixels"
            )
    if not all(abs(value) < LARGEST_NUMBER for value in others):
        raise InvalidCamera("its principal point or distortion is not finite")


def _reason(error: Exception) -> str:
    """Explain an exception in one line."""
    if isinstance(error, KeyError):
        text = f"it lacks {error}"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    else:
        text = str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def _brief(value: object) -> str:
    """Return the beginning of a value's representation."""
    # The representation of an integer with thousands of digits raises ValueError.
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a huge integer"
    return text if len(text) <= 60 else f"{text[:60]}..."
