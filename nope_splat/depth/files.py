"""Depth maps that the user brings: npz files, or png files of 16 bits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nope_splat.depth.depth_map import DepthKind, DepthMap, Map
from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile

MAX_SIZE = 1024
"""Larger maps are thinned to this longer side: depth is smooth but for its edges."""
MAX_STRETCH = 0.02
"""Largest relative difference between the proportions of a map and of its image."""


def find_depth_file(folder: Path, image: ImageFile) -> Path:
    """Find the depth map of an image.

    Args:
        folder: The folder of the depth maps.
        image: The image; the map of `a/b.jpg` is `a/b.npz` or `a/b.png`, or `a/b.jpg.npz` and so on.

    Returns:
        The file.

    Raises:
        NopeSplatError: If there is none.
    """
    for suffix in (".npz", ".png"):
        for file in ((folder / image.name).with_suffix(suffix), folder / f"{image.name}{suffix}"):
            if file.is_file():
                return file
    wanted = (folder / image.name).with_suffix(".npz")
    raise NopeSplatError(
        "missing-file", f"{image.name} has no depth map; put {wanted}, or a 16-bit .png of that name, there"
    )


def read_depth_file(path: Path, image: ImageFile, kind: DepthKind) -> DepthMap:
    """Read the depth map of an image.

    Args:
        path: The file.
        image: The image that it covers.
        kind: What its values are.

    Returns:
        The map, NaN where the file has NaN, infinity or zero, thinned to `MAX_SIZE`.

    Raises:
        NopeSplatError: If the file is no depth map, or not of this image.
    """
    try:
        values, confidence = _read_npz(path) if path.suffix == ".npz" else (_read_png(path), None)
    except Exception as error:  # damaged files raise whatever their bytes lead to
        raise NopeSplatError("unreadable-file", f"the depth map {path} cannot be read: {error}") from error
    height, width = values.shape
    stretch = width * image.height / (height * image.width) - 1
    if abs(stretch) > MAX_STRETCH:
        raise NopeSplatError(
            "wrong-size",
            f"the depth map {path} is {width} x {height} pixels, but its photo {image.name} is"
            f" {image.width} x {image.height}; it must cover the whole photo",
        )
    values = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    confidence = None if confidence is None else _thinned(confidence)
    return DepthMap.covering(_thinned(values), kind, (image.width, image.height), confidence)


def _read_npz(path: Path) -> tuple[NDArray, NDArray | None]:
    """Depth and perhaps confidence. (H, W) each."""
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
    """Depth in the steps of the file. (H, W)."""
    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            raise ValueError("it does not hold 16 bits of gray; eight are too few for depth")
        return np.asarray(image)


def _thinned(values: NDArray) -> Map:
    """Fewer values, none of them mixed of two: edges stay edges, and unknown values do not spread."""
    height, width = values.shape
    shrink = min(1.0, MAX_SIZE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    thinned = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(thinned, np.float32)
