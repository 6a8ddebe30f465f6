"""Cache keys: hashes of the files and settings that a result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nope_splat.io.images import ImageFile

FORMAT_VERSION = 11
"""Version of the cached arrays; increment it whenever the same images and settings give different arrays."""


def content_key(image_files: Sequence[ImageFile], settings: Mapping[str, Any]) -> str:
    """Compute a cache key from images, their names, masks and order, and from settings.

    Args:
        image_files: The images. Their content and that of their masks is hashed, not their location.
        settings: Everything else that the result depends on, in a form that JSON can write (`asdict` for
            dataclasses).

    Returns:
        SHA-256 hash in hexadecimal digits.
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
    """Compute the SHA-256 hash of a file, in hexadecimal digits.

    Args:
        path: Path of the file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
