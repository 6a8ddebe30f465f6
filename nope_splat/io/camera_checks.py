"""Check numbers, poses and intrinsics read from camera files.

The checks raise `InvalidCamera` with a reason; the context manager `parsing` converts this exception to a
`NopeSplatError`.
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
"""Upper limit of the absolute value of all numbers in camera files. Larger numbers occur only in damaged
files, and products of such numbers could overflow."""
FOCAL_RATIOS = (1e-3, 1e4)
"""Minimum and maximum focal length, as multiples of the longer image side. These limits correspond to fields
of view of 179.8 and 0.006 degrees along that side."""
MAX_ROTATION_ERROR = 0.02
"""Maximum relative difference between the largest and smallest singular value of a rotation matrix that is
read from a file. Matrices rounded to two decimals pass."""


class InvalidCamera(ValueError):
    """Exception for invalid content of a camera file; its message is the reason that `parsing` reports."""


@contextmanager
def parsing(source: str, advice: str) -> Iterator[None]:
    """Convert the exceptions that a damaged file causes within a `with` block to a `NopeSplatError`.

    The error message has the form "`source` (reason); `advice`", with the reason from the exception.

    Args:
        source: Start of the message, which names the file and says what is wrong with it, for example
            `"cameras.json is not a transforms.json"`.
        advice: End of the message, which says what the user should do.

    Yields:
        Nothing.

    Raises:
        NopeSplatError: If the block raises an exception of a type that damaged content causes, such as
            `OSError`, `KeyError` or `ValueError` (including `InvalidCamera`).
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
    """Read a number from a JSON object, and check that the number is finite.

    Args:
        values: The JSON object.
        key: Key of the number in the object.
        default: Value to return if the key is missing; None if the key is required.

    Returns:
        The number; strings such as "1.5" are converted.

    Raises:
        KeyError: If a required key is missing.
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
    """Check a camera pose from a file, and replace its rotation by the nearest orthonormal matrix.

    Rotations in files may be rounded to a few decimals or multiplied by a scale.

    Args:
        matrix: Camera-to-world or world-to-camera transform, as nested lists or an array. (4, 4), or (3, 4)
            without the last row.

    Returns:
        The transform, float64, with a rotation of determinant 1 and an unchanged translation. (4, 4).

    Raises:
        InvalidCamera: If a number is not finite, the last row is not 0 0 0 1, or the upper left 3 x 3 block
            is not approximately a rotation times a positive scale.
        ValueError: If the matrix does not have 12 or 16 numbers.
    """
    pose = np.array(matrix, dtype=np.float64)
    if pose.size == 12:
        pose = np.append(pose, [0.0, 0.0, 0.0, 1.0])
    pose = pose.reshape(4, 4)
    if not (np.abs(pose) < LARGEST_NUMBER).all():
        raise InvalidCamera("its pose contains a number that is not finite")
    if not np.allclose(pose[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        raise InvalidCamera("the last row of its pose is not 0 0 0 1; check whether the matrix is transposed")
    lengths = np.linalg.svd(pose[:3, :3], compute_uv=False)
    if not lengths[2] > (1 - MAX_ROTATION_ERROR) * lengths[0]:
        raise InvalidCamera(
            "the upper left 3 x 3 block of its pose is not a rotation: its axes are not orthogonal, or not"
            " equally long"
        )
    if np.linalg.det(pose[:3, :3] / lengths[0]) < 0:
        raise InvalidCamera(
            "its pose is mirrored: its rotation matrix has determinant -1; check the axis convention"
        )
    pose[:3, :3] = nearest_rotation(pose[:3, :3])
    return pose


def check_intrinsics(
    size: tuple[float, float], focals: Sequence[float], others: Sequence[float] = ()
) -> None:
    """Check that the intrinsics of a camera are finite and plausible.

    Args:
        size: Width and height of the image in pixels.
        focals: One or two focal lengths in pixels.
        others: Other parameters that only have to be finite, such as principal point and distortion.

    Raises:
        InvalidCamera: If a number is not finite, the size is not positive, or the ratio of a focal length to
            the longer image side is outside `FOCAL_RATIOS`.
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
    """Format an exception as a reason for an error message: one line of at most 200 characters."""
    if isinstance(error, KeyError):
        text = f"it lacks {error}"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    else:
        text = str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def one_line(text: str, max_length: int = 200) -> str:
    """Convert a text from a file to one line of at most `max_length` characters, for a message."""
    return " ".join(text[:max_length].split())


def _brief(value: object) -> str:
    """Format a value for an error message: at most the first 60 characters of its `repr`."""
    # `repr` of an integer with thousands of digits raises ValueError.
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a huge integer"
    return text if len(text) <= 60 else f"{text[:60]}..."
