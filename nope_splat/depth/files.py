"""Reading of depth maps that the user provides as npz or 16-bit png files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nope_splat.depth.depth_map import DepthKind, DepthMap, DepthValues
from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile

MAX_SIZE = 1024
"""Maximum length of the longer side of a depth map in pixels. Larger maps are downsampled, which loses little
because depth is smooth except at edges."""
MAX_ASPECT_ERROR = 0.02
"""Maximum relative difference between the aspect ratios of a depth map and its image. Maps with a larger
difference are refused."""


def find_depth_file(folder: Path, image: ImageFile) -> Path:
    """Find the depth file of an image.

    Args:
        folder: Folder of the depth files.
        image: The image. For `a/b.jpg`, the files `a/b.npz`, `a/b.jpg.npz`, `a/b.png` and `a/b.jpg.png` are
            tried in this order.

    Returns:
        Path of the first file that exists.

    Raises:
        NopeSplatError: If none of the files exists.
    """
    for suffix in (".npz", ".png"):
        for file in ((folder / image.name).with_suffix(suffix), folder / f"{image.name}{suffix}"):
            if file.is_file():
                return file
    wanted = (folder / image.name).with_suffix(".npz")
    raise NopeSplatError(
        "missing-file", f"{image.name} has no depth map; add {wanted} or a 16-bit .png with the same name"
    )


def read_depth_file(path: Path, image: ImageFile, kind: DepthKind) -> DepthMap:
    """Read the depth map of an image from a file.

    Args:
        path: The npz or 16-bit png file.
        image: The image that the map covers.
        kind: Quantity that the file contains.

    Returns:
        The map, with a longer side of at most `MAX_SIZE` pixels. NaN, infinity and zero in the file become
        NaN (unknown).

    Raises:
        NopeSplatError: If the file cannot be read, or if the aspect ratios of the map and the image differ by
            more than `MAX_ASPECT_ERROR`.
    """
    try:
        values, confidence = _read_npz(path) if path.suffix == ".npz" else (_read_png(path), None)
    except Exception as error:  # damaged files raise many kinds of errors
        raise NopeSplatError(
            "unreadable-file", f"the depth map {path} cannot be read ({error}); correct it and save it again"
        ) from error
    height, width = values.shape
    aspect_error = width * image.height / (height * image.width) - 1
    if abs(aspect_error) > MAX_ASPECT_ERROR:
        raise NopeSplatError(
            "wrong-size",
            f"the depth map {path} is {width} x {height} pixels, but its photo {image.name} is {image.width}"
            f" x {image.height}; save a depth map that covers the whole photo",
        )
    values = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    confidence = None if confidence is None else _downsample(confidence)
    return DepthMap.of_whole_image(_downsample(values), kind, (image.width, image.height), confidence)


def _read_npz(path: Path) -> tuple[NDArray, NDArray | None]:
    """Read the depth values and, if present, the confidence from an npz file.

    Args:
        path: The file, with the array `depth` and optionally `confidence`.

    Returns:
        Array `depth` (H, W); and array `confidence` (H, W), or None if the file has none.

    Raises:
        ValueError: If `depth` is missing, is not numeric or does not have the shape (H, W), or if
            `confidence` has a different shape from `depth`.
    """
    with np.load(path, allow_pickle=False) as file:
        if "depth" not in file:
            raise ValueError(f"it has no array named depth; its arrays are: {', '.join(file) or 'none'}")
        values = np.squeeze(file["depth"])
        confidence = np.squeeze(file["confidence"]) if "confidence" in file else None
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
        raise ValueError(f"its depth must be numbers of shape (H, W), not {values.shape} of {values.dtype}")
    if confidence is not None and confidence.shape != values.shape:
        raise ValueError(f"its confidence has the shape {confidence.shape}, but its depth {values.shape}")
    return values, confidence


def _read_png(path: Path) -> NDArray:
    """Read the integer depth values of a 16-bit png file. (H, W).

    Raises:
        ValueError: If the file is not a 16-bit grayscale image.
    """
    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            raise ValueError("it is not a 16-bit grayscale png; 8 bits are too coarse for depth")
        return np.asarray(image)


def _downsample(values: NDArray) -> DepthValues:
    """Downsample a map (H, W) to a longer side of at most `MAX_SIZE` pixels.

    Smaller maps keep their size. Nearest-neighbor sampling keeps edges sharp and does not spread NaN.
    """
    height, width = values.shape
    shrink = min(1.0, MAX_SIZE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    downsampled = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(downsampled, np.float32)
