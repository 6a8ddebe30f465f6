"""A folder of photographs: find, orient (EXIF), check, read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Photo:
    """One readable photograph."""

    path: Path
    """The image file."""
    name: str
    """Path relative to the photo folder, with forward slashes: the photo's identity everywhere."""
    width: int
    """Pixels across, upright (after EXIF orientation), full resolution."""
    height: int
    """Pixels down, upright (after EXIF orientation), full resolution."""
    mask_path: Path | None = None
    """Mask of the same name under `masks/`: white is used, black is ignored."""


@dataclass(frozen=True)
class PhotoFolder:
    """The photographs of one folder, in natural order of their names."""

    root: Path
    """The folder that holds the photographs (not its parent)."""
    photos: tuple[Photo, ...]
    """Readable photographs."""
    skipped: dict[str, str]
    """Files that look like photographs but cannot be used: name to reason."""


def find_photos(data: Path) -> PhotoFolder:
    raise NotImplementedError


def read_photo(photo: Photo, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    raise NotImplementedError
