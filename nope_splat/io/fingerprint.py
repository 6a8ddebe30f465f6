"""Cache keys: hashes of the files and settings that a result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile, list_files
from nope_splat.utils.files import sha256

FORMAT_VERSION = 16
"""Version number in every cache key. Increment it when a code change alters the results for the same images
and settings."""


def content_key(image_files: Sequence[ImageFile], settings: Mapping[str, Any]) -> str:
    """Compute the cache key of a result from the images and settings that determine the result.

    Args:
        image_files: The images, in the order in which the result contains them. The key depends on the names
            and order of the images and on the content of image and mask files, but not on the location of the
            files.
        settings: Settings that the result depends on, as values that JSON supports. Convert dataclasses with
            `asdict`.

    Returns:
        SHA-256 hash in hexadecimal digits.

    Raises:
        NopeSplatError: If a file can no longer be read.
    """
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda image: file_hash(image.path), image_files))
        masks = list(pool.map(_mask_key, image_files))
    content = {
        "format": FORMAT_VERSION,
        "names": [image.name for image in image_files],
        "images": images,
        "masks": masks,
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def folder_hashes(data: Path) -> dict[str, str]:
    """Hash the content of all image files and videos in a folder and of their masks, without decoding them.

    Args:
        data: The image folder, a folder that contains it as `images/`, or a video.

    Returns:
        Hashes by the name of the image or video: the SHA-256 hash of the file, followed by a space and the
        hash of its mask file if there is one. For files that cannot be read, "unreadable" replaces the hash.
    """

    def hash_or_reason(path: Path) -> str:
        try:
            return sha256(path)
        except OSError:
            return "unreadable"

    def hash_both(files: tuple[Path, Path | None]) -> str:
        return " ".join(hash_or_reason(path) for path in files if path is not None)

    files = list_files(data)
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(hash_both, files.values()), strict=True))


def file_hash(path: Path) -> str:
    """Compute the SHA-256 hash of a file, in hexadecimal digits.

    Args:
        path: The file.

    Raises:
        NopeSplatError: If the file cannot be read, or is not a regular file.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise NopeSplatError(
            "unreadable-file",
            f"{path} cannot be read anymore ({error.strerror}); do not change the files during a run",
        ) from error


def _mask_key(image_file: ImageFile) -> list[str | bool] | None:
    """Return the hash of an image's mask file, and whether the mask is inverted; None without a mask file."""
    if image_file.mask_path is None:
        return None
    return [file_hash(image_file.mask_path), image_file.mask_inverted]
