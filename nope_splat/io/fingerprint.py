"""Keys of results: hashes of the files and settings that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nope_splat.io.images import Photo

FORMAT_VERSION = 9
"""Raised whenever the same photographs and settings lead to other arrays than before."""


def content_key(photos: Sequence[Photo], settings: Mapping[str, Any]) -> str:
    """Key of a result: changes with the photographs, their names, masks and order, and with the settings.

    Args:
        photos: The photographs; the bytes of their files and masks count, not where these lie.
        settings: Whatever else the result depends on, as json can write it (for dataclasses, `asdict`).

    Returns:
        SHA-256 in hexadecimal digits.
    """
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda photo: file_hash(photo.path), photos))
        masks = list(pool.map(lambda photo: photo.mask_path and file_hash(photo.mask_path), photos))
    content = {
        "format": FORMAT_VERSION,
        "names": [photo.name for photo in photos],
        "images": images,
        "masks": masks,
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
