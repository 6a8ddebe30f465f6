"""Depth maps from files of the user: npz or 16-bit png."""

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
"""Longer side to which larger maps are downsampled: apart from its edges, depth is smooth."""
MAX_ASPECT_ERROR = 0.02
"""Maximum relative difference between the aspect ratios of a map and of its image."""


def find_depth_file(folder: Path, image: ImageFile) -> Path:
    """Find the depth file of an image.

    Args:
        folder: Folder of the depth files.
        image: The image. The file for `a/b.jpg` is `a/b.npz` or `a/b.png`, or `a/b.jpg.npz` or `a/b.jpg.png`.

    Returns:
        Path of the file.

    Raises:
        NopeSplatError: If there is no such file.
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
    """Read the depth map of an image.

    Args:
        path: The file.
        image: The image that the map covers.
        kind: Quantity that the values represent.

    Returns:
        The map, downsampled to `MAX_SIZE`. NaN, infinity and zero in the file are unknown values (NaN).

    Raises:
        NopeSplatError: If the file cannot be read, or its aspect ratio differs from that of the image.
    """
    try:
        values, confidence = _read_npz(path) if path.suffix == ".npz" else (_read_png(path), None)
    except Exception as error:  # damaged files raise many kinds of errors
        raise NopeSplatError("unreadable-file", f"the depth map {path} cannot be read: {error}") from error
    height, width = values.shape
    aspect_error = width * image.height / (height * image.width) - 1
    if abs(aspect_error) > MAX_ASPECT_ERROR:
        raise NopeSplatError(
            "wrong-size",
            f"the depth map {path} is {width} x {height} pixels, but its photo {image.name} is {image.width}"
            f" x {image.height}; a depth map must cover the whole photo",
        )
    values = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    confidence = None if confidence is None else _downsample(confidence)
    return DepthMap.of_whole_image(_downsample(values), kind, (image.width, image.height), confidence)


def _read_npz(path: Path) -> tuple[NDArray, NDArray | None]:
    """Read depth (H, W), and confidence (H, W) if there is any."""
    with np.load(path, allow_pickle=False) as file:
        if "depth" not in file:
            raise ValueError(f"it has no array named depth, but {', '.join(file) or 'none at all'}")
        values = np.squeeze(file["depth"])
        confidence = np.squeeze(file["confidence"]) if "confidence" in file else None
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
        raise ValueError(f"its depth is no array (H, W) of numbers, but {values.shape} of {values.dtype}")
    if confidence is not None and confidence.shape != values.shape:
        raise ValueError(f"its confidence is {confidence.shape}, but its depth {values.shape}")
    return values, confidence


def _read_png(path: Path) -> NDArray:
    """Read the integer values of a 16-bit file. (H, W)."""
    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            raise ValueError("it does not hold 16 bits of gray; eight are too few for depth")
        return np.asarray(image)


def _downsample(values: NDArray) -> DepthValues:
    """Downsample a map to `MAX_SIZE` without mixing values: edges stay sharp, and NaN does not spread."""
    height, width = values.shape
    shrink = min(1.0, MAX_SIZE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    downsampled = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(downsampled, np.float32)
