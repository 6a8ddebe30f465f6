"""Image folders: find, check and read images and masks, upright after EXIF orientation."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nope_splat.errors import NopeSplatError
from nope_splat.utils.progress import progress_bar

try:
    from pillow_heif import register_heif_opener
except ImportError:
    HEIF_READABLE = False
else:
    register_heif_opener()
    HEIF_READABLE = True

logger = logging.getLogger(__name__)

HEIF_SUFFIXES = frozenset({".heic", ".heif"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}) | HEIF_SUFFIXES
MASK_FOLDER = "masks"
Image.init()
FORMATS = Image.OPEN.keys() & {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF"}
"""Accepted file formats, regardless of the file name; Pillow would also run Ghostscript on PostScript
files."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and bytes that are not UTF-8; other tools cannot write file names that contain them."""

MIN_SIDE = 32
"""Shortest side, in pixels, of a usable image; smaller images have no keypoints and are skipped."""
MAX_PIXELS = 400_000_000
"""Largest number of pixels of a usable image; decoded, an image of this size takes 1.2 GB of memory."""
# Pillow raises an error at twice its limit; its default would reject 180 megapixels, a modest panorama.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True)
class ImageFile:
    """One readable image."""

    path: Path
    """The image file."""
    name: str
    """Path relative to the image folder, with forward slashes; identifies the image in all stages."""
    width: int
    """Width in pixels at full resolution, after EXIF orientation."""
    height: int
    """Height in pixels at full resolution, after EXIF orientation."""
    mask_path: Path | None = None
    """Mask file: white pixels are used, black pixels are ignored."""
    ignored: NDArray[np.bool_] | None = field(default=None, compare=False)
    """Cells of a regular grid over the image that are ignored, too. (rows, columns)."""


@dataclass(frozen=True)
class ImageFolder:
    """Images of a folder, in natural order of their names."""

    root: Path
    """Folder that image names are relative to."""
    images: tuple[ImageFile, ...]
    """Usable images."""
    skipped: dict[str, str]
    """Reason why an image file cannot be used, by file name."""


def find_images(data: Path | str) -> ImageFolder:
    """Find and check the images of a folder, subfolders included.

    Every file is decoded once, so that damaged files are reported here and not in the middle of a later
    stage. Hidden files and folders, and folders named `masks`, are ignored. The mask of `a/b.jpg` is
    `masks/a/b.png` (or `masks/a/b.jpg.png`), where `masks/` is in the image folder or next to it.

    Args:
        data: The image folder, or a folder that contains it as `images/`.

    Returns:
        The images, and the files that were skipped.

    Raises:
        NopeSplatError: If the folder does not exist, fewer than two images are usable, or a mask is damaged
            or differs in size from its image.
    """
    data = Path(data)
    if not data.exists():
        raise NopeSplatError("missing-file", f"the photo folder {data} does not exist; check the path")
    if not data.is_dir():
        raise NopeSplatError("unreadable-file", f"{data} is a file; pass the folder that contains the photos")
    if not os.access(data, os.R_OK | os.X_OK):
        raise NopeSplatError(
            "unreadable-file", f"no permission to read the photo folder {data}; check its permissions"
        )
    root = _image_root(data)
    names = sorted(_image_names(root), key=_natural_key)
    if not names:
        raise NopeSplatError(
            "too-few-images",
            f"no photos in {root}; pass a folder that contains image files such as .jpg, .png, .webp or"
            " .tiff",
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = list(
            progress_bar(pool.map(lambda name: _check(root, name), names), "Reading photos", len(names))
        )
    images = tuple(image for image in checked if isinstance(image, ImageFile))
    reasons = {name: reason for name, reason in zip(names, checked, strict=True) if isinstance(reason, str)}
    skipped = {_escape(name): reason for name, reason in reasons.items()}

    if len(images) < 2:
        found = f"only one readable photo ({images[0].name})" if images else "no readable photos"
        unread = "".join(f"; {name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise NopeSplatError(
            "too-few-images", f"{root} contains {found}, but at least two are needed{unread}"
        )
    if not any(image.mask_path for image in images):
        for folder in _mask_folders(root):
            logger.warning(f"The masks in {folder} are not used because none has the same name as a photo.")
    return ImageFolder(root, images, skipped)


def read_image(image: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image upright and convert it to 8 bits per channel.

    Args:
        image: The image.
        size: Width and height to scale to, by averaging over the area of each pixel; full resolution if None.

    Returns:
        Colors, RGB or (with transparency) RGBA with straight alpha. (H, W, 3 or 4).

    Raises:
        NopeSplatError: If the file has become unreadable since it was found.
    """
    pixels = _reread(image.path)
    if size is None or size == (image.width, image.height):
        return pixels
    if pixels.shape[2] == 3:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    # Weight colors by alpha, so that the colors of transparent pixels do not bleed.
    alpha = pixels[..., 3:].astype(np.float32)
    weighted = np.concatenate([pixels[..., :3] * alpha, alpha], axis=2)
    weighted = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    weighted[..., :3] /= np.maximum(weighted[..., 3:], 1e-6)
    return np.rint(weighted).astype(np.uint8)


def read_mask(image_file: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.bool_] | None:
    """Read the mask of an image: its mask file, its transparency and its ignored cells combined.

    Args:
        image_file: The image.
        size: Width and height to scale to; full resolution if None.

    Returns:
        True for used pixels: no part of the pixel is black in the mask file, and the pixel is at least half
        opaque. None if all pixels are used. (H, W).

    Raises:
        NopeSplatError: If a file has become unreadable since it was found.
    """

    def resize(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if size is None or size == (image_file.width, image_file.height):
            return values
        return cv2.resize(values, size, interpolation=cv2.INTER_AREA).astype(np.uint8)

    used = None
    if image_file.mask_path is not None:
        # Colors are averaged without regard to the mask, so a partly masked pixel shows the masked color.
        used = resize(255 * np.any(_reread(image_file.mask_path)[..., :3], axis=2).astype(np.uint8)) == 255
    with Image.open(image_file.path) as image:
        transparent = image.has_transparency_data
    if transparent:  # colors are weighted by alpha, so half opacity is enough
        opaque = resize(_reread(image_file.path)[..., 3]) > 127
        used = opaque if used is None else used & opaque
    if image_file.ignored is not None:
        width, height = size or (image_file.width, image_file.height)
        cells = cv2.resize(
            image_file.ignored.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        used = cells == 0 if used is None else used & (cells == 0)
    return used


def assign_cameras(images: Sequence[ImageFile], by: Literal["size", "folder"] = "size") -> NDArray[np.int64]:
    """Assign a camera to each image; images of one camera are assumed to share their zoom.

    Args:
        images: The images.
        by: Images share a camera if they have the same size, in portrait or landscape ("size"), or the same
            size and the same folder ("folder").

    Returns:
        Camera index of each image, numbered in the order of the cameras' first images. (N,).
    """
    indices: dict[tuple[int, int, PurePosixPath | None], int] = {}
    camera_ids = []
    for image in images:
        longer, shorter = max(image.width, image.height), min(image.width, image.height)
        folder = PurePosixPath(image.name).parent if by == "folder" else None
        camera_ids.append(indices.setdefault((longer, shorter, folder), len(indices)))
    return np.array(camera_ids, np.int64)


def count_images(data: Path) -> int:
    """Count the image files of a folder by their suffix, without reading them.

    Args:
        data: The image folder, or a folder that contains it as `images/`.
    """
    return sum(1 for _ in _image_names(_image_root(data)))


def _image_root(data: Path) -> Path:
    """Return the subfolder `images/` if it exists, else the folder itself."""
    return data / "images" if (data / "images").is_dir() else data


def _image_names(root: Path) -> Iterator[str]:
    """Yield the names of all image files under a folder, following links but visiting each folder once."""
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name != MASK_FOLDER)
        for file in files:
            if file[0] != "." and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                yield (Path(folder) / file).relative_to(root).as_posix()


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `photo9` before `photo10`."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _escape(name: str) -> str:
    """Escape the unprintable characters of a file name."""
    return UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)


def _check(root: Path, name: str) -> ImageFile | str:
    """Check an image file: return it, or the reason why it cannot be used."""
    path = root / name
    if UNPRINTABLE.search(name):
        return "its name contains control characters or bytes that are not UTF-8; rename it"
    if path.exists() and not path.is_file():
        return "not a file"  # reading from a pipe would block forever
    try:
        height, width = _decode(path).shape[:2]
    except Exception as error:  # for damaged files, decoders raise many kinds of errors
        return _reason(path, error)
    if min(width, height) < MIN_SIDE:
        return f"too small, {width} x {height} pixels"
    return ImageFile(path, name, width, height, _find_mask(root, name, (width, height)))


def _decode(path: Path) -> NDArray[np.uint8]:
    """Decode an image file upright. (H, W, 3), or (H, W, 4) if it has transparency."""
    with Image.open(path, formats=sorted(FORMATS)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF data; the pixels are still usable
            image = image.copy()
    if image.mode == "F":
        raise ValueError("it contains floating-point values; save it with 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit gray
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("it has more than 16 bits per channel; save it with 8 or 16")
        gray = ((levels * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _reread(path: Path) -> NDArray[np.uint8]:
    """Decode a file again that was readable when the folder was searched."""
    try:
        return _decode(path)
    except Exception as error:  # for damaged files, decoders raise many kinds of errors
        raise NopeSplatError(
            "unreadable-image", f"{path} cannot be read anymore: {_reason(path, error)}"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Explain to the user why an image file cannot be used."""
    if path.suffix.lower() in HEIF_SUFFIXES and not HEIF_READABLE:
        return "HEIC files need pillow-heif: pip install pillow-heif"
    if isinstance(error, UnidentifiedImageError):
        return "an empty file" if path.stat().st_size == 0 else "not an image, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})" if error.strerror else f"damaged ({error})"
    return str(error)


def _mask_folders(root: Path) -> list[Path]:
    """Return the existing mask folders, in the image folder and next to it."""
    return [folder for folder in (root / MASK_FOLDER, root.parent / MASK_FOLDER) if folder.is_dir()]


def _find_mask(root: Path, name: str, size: tuple[int, int]) -> Path | None:
    """Find the mask file of an image, and check that it is readable and has the same size."""
    for folder in _mask_folders(root):
        for file in (folder / f"{name}.png", (folder / name).with_suffix(".png"), folder / name):
            if not file.is_file():
                continue
            try:
                height, width = _decode(file).shape[:2]
            except Exception as error:  # for damaged files, decoders raise many kinds of errors
                raise NopeSplatError(
                    "unreadable-image", f"the mask {file} cannot be read: {_reason(file, error)}"
                ) from error
            if (width, height) != size:
                raise NopeSplatError(
                    "wrong-size",
                    f"the mask {file} is {width} x {height} pixels, but its photo is {size[0]} x {size[1]};"
                    " save the mask at the size of the photo",
                )
            return file
    return None
