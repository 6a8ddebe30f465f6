"""Depth maps that the user brings: npz files, or png files of 16 bits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nope_splat.depth.depth_map import DepthKind, DepthMap, Map
from nope_splat.errors import UserError
from nope_splat.io.images import Photo

MAX_SIZE = 1024
"""Larger maps are thinned to this longer side: depth is smooth but for its edges."""
MAX_STRETCH = 0.02
"""Largest relative difference between the proportions of a map and of its photograph."""


def find_depth_file(folder: Path, photo: Photo) -> Path:
    """Find the depth map of a photograph.

    Args:
        folder: The folder of the depth maps.
        photo: The photograph; the map of `a/b.jpg` is `a/b.npz` or `a/b.png`, or `a/b.jpg.npz` and so on.

    Returns:
        The file.

    Raises:
        UserError: If there is none.
    """
    for suffix in (".npz", ".png"):
        for file in ((folder / photo.name).with_suffix(suffix), folder / f"{photo.name}{suffix}"):
            if file.is_file():
                return file
    wanted = (folder / photo.name).with_suffix(".npz")
    raise UserError(f"{photo.name} has no depth map; put {wanted}, or a 16-bit .png of that name, there")


def read_depth_file(path: Path, photo: Photo, kind: DepthKind) -> DepthMap:
    """Read the depth map of a photograph.

    Args:
        path: The file.
        photo: The photograph that it covers.
        kind: What its values are.

    Returns:
        The map, NaN where the file has NaN, infinity or zero, thinned to `MAX_SIZE`.

    Raises:
        UserError: If the file is no depth map, or not of this photograph.
    """
    try:
        values, confidence = _read_npz(path) if path.suffix == ".npz" else (_read_png(path), None)
    except Exception as error:  # damaged files raise whatever their bytes lead to
        raise UserError(f"the depth map {path} cannot be read: {error}") from error
    height, width = values.shape
    stretch = width * photo.height / (height * photo.width) - 1
    if abs(stretch) > MAX_STRETCH:
        raise UserError(
            f"the depth map {path} is {width} x {height} pixels, but its photograph {photo.name} is"
            f" {photo.width} x {photo.height}; it must cover the whole photograph"
        )
    values = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    confidence = None if confidence is None else _thinned(confidence)
    return DepthMap.covering(_thinned(values), kind, (photo.width, photo.height), confidence)


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
