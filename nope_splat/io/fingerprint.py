"""Keys of results: hashes of the files and settings that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nope_splat.io.images import ImageFile

FORMAT_VERSION = 10
"""Raised whenever the same images and settings lead to other arrays than before."""


def content_key(image_files: Sequence[ImageFile], settings: Mapping[str, Any]) -> str:
    """Key of a result: changes with the images, their names, masks and order, and with the settings.

    Args:
        image_files: The images; the bytes of their files and masks count, not where these lie.
        settings: Whatever else the result depends on, as json can write it (for dataclasses, `asdict`).

    Returns:
        SHA-256 in hexadecimal digits.
    """
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda image: file_hash(image.path), image_files))
        masks = list(pool.map(lambda image: image.mask_path and file_hash(image.mask_path), image_files))
    content = {
        "format": FORMAT_VERSION,
        "names": [image.name for image in image_files],
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
