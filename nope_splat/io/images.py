"""A folder of images: find, orient (EXIF), check, read."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nope_splat.errors import NopeSplatError
from nope_splat.utils.progress import track

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
"""What an image file may hold, whatever its name says: Pillow would also run Ghostscript on PostScript."""
UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and bytes that are not UTF-8: other tools cannot write such names down."""

MIN_SIDE = 32
"""Images with a shorter side than this many pixels hold no keypoints; they are skipped."""
MAX_PIXELS = 400_000_000
"""Images of more pixels are skipped: decoded, one of this size fills 1.2 GB of memory."""
# Pillow refuses at twice its limit; its default would refuse 180 megapixels, a modest panorama.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True)
class ImageFile:
    """One readable image."""

    path: Path
    """The image file."""
    name: str
    """Path relative to the image folder, with forward slashes: the image's identity everywhere."""
    width: int
    """Pixels across, upright (after EXIF orientation), full resolution."""
    height: int
    """Pixels down, upright (after EXIF orientation), full resolution."""
    mask_path: Path | None = None
    """Mask of the same name under `masks/`: white is used, black is ignored."""


@dataclass(frozen=True)
class ImageFolder:
    """The images of one folder, in natural order of their names."""

    root: Path
    """The folder that holds the images (not its parent)."""
    images: tuple[ImageFile, ...]
    """Readable images."""
    skipped: dict[str, str]
    """Files that look like images but cannot be used: name to reason."""


def find_images(data: Path) -> ImageFolder:
    """Find and check the images of a folder, sub-folders included.

    Every file is decoded once, so that a damaged one is named here and not met in the middle of a stage.
    Hidden files and folders, and folders named `masks`, are passed over. The mask of `a/b.jpg` is
    `masks/a/b.png` (or `masks/a/b.jpg.png`), with `masks/` in the image folder or beside it.

    Args:
        data: The folder of images, or a folder with `images/` in it.

    Returns:
        The images, and the files that were skipped.

    Raises:
        NopeSplatError: If there is no such folder, if fewer than two images are readable, or if a mask does
            not fit its image.
    """
    if not data.exists():
        raise NopeSplatError("missing-file", f"the photo folder {data} does not exist; check the path")
    if not data.is_dir():
        raise NopeSplatError("unreadable-file", f"{data} is a file; give the folder that holds the photos")
    if not os.access(data, os.R_OK | os.X_OK):
        raise NopeSplatError("unreadable-file", f"no permission to read the photo folder {data}")
    root = _root(data)
    names = sorted(_walk(root), key=_natural_key)
    if not names:
        raise NopeSplatError(
            "too-few-images", f"no photos in {root}; it should hold files such as .jpg, .png, .webp or .tiff"
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = list(track(pool.map(lambda name: _check(root, name), names), "Reading photos", len(names)))
    images = tuple(image for image in checked if isinstance(image, ImageFile))
    reasons = {name: reason for name, reason in zip(names, checked, strict=True) if isinstance(reason, str)}
    skipped = {_spoken(name): reason for name, reason in reasons.items()}

    if len(images) < 2:
        found = f"only one readable photo ({images[0].name})" if images else "no readable photo"
        unread = "".join(f"; {name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise NopeSplatError("too-few-images", f"{root} holds {found}, and at least two are needed{unread}")
    if not any(image.mask_path for image in images):
        for folder in _mask_folders(root):
            logger.warning(f"The masks in {folder} are not used: none has the name of a photo.")
    return ImageFolder(root, images, skipped)


def read_image(image: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image upright, as 8-bit RGB whatever the file holds.

    Args:
        image: The image.
        size: Width and height to scale to, each pixel the mean over its area; full resolution if None.

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
    # What lies under transparent pixels must not bleed: average colors weighted by alpha.
    alpha = pixels[..., 3:].astype(np.float32)
    weighted = np.concatenate([pixels[..., :3] * alpha, alpha], axis=2)
    weighted = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    weighted[..., :3] /= np.maximum(weighted[..., 3:], 1e-6)
    return np.rint(weighted).astype(np.uint8)


def read_mask(image_file: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.bool_] | None:
    """Read which pixels of an image are used: its mask file and its transparency together.

    Args:
        image_file: The image.
        size: Width and height to scale to; full resolution if None.

    Returns:
        True where the image is used: nothing of the pixel is black in the mask, and it is at least half
        opaque. None if it is used everywhere. (H, W).

    Raises:
        NopeSplatError: If a file has become unreadable since it was found.
    """

    def scaled(opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
        scale = size is not None and size != (image_file.width, image_file.height)
        return cv2.resize(opacity, size, interpolation=cv2.INTER_AREA).astype(np.uint8) if scale else opacity

    used = None
    if image_file.mask_path is not None:
        # A pixel that mixes in what is masked has its color.
        used = scaled(255 * np.any(_reread(image_file.mask_path)[..., :3], axis=2).astype(np.uint8)) == 255
    with Image.open(image_file.path) as image:
        transparent = image.has_transparency_data
    if transparent:  # its colors are averaged by opacity
        opaque = scaled(_reread(image_file.path)[..., 3]) > 127
        used = opaque if used is None else used & opaque
    return used


def cameras_of_images(
    images: Sequence[ImageFile], by: Literal["size", "folder"] = "size"
) -> NDArray[np.int64]:
    """Tell which images were taken by the same camera, at the same zoom as far as one can know.

    Args:
        images: The images.
        by: A camera is known by the size of its images, portrait or landscape; or by that and by the
            folder that they are in.

    Returns:
        Number of the camera of each image, counted from 0 in the order of their first images. (N,).
    """
    numbers: dict[tuple[int, int, PurePosixPath | None], int] = {}
    cameras = []
    for image in images:
        longer, shorter = max(image.width, image.height), min(image.width, image.height)
        folder = PurePosixPath(image.name).parent if by == "folder" else None
        cameras.append(numbers.setdefault((longer, shorter, folder), len(numbers)))
    return np.array(cameras, np.int64)


def count_images(data: Path) -> int:
    """Number of files in a folder of images that look like some, none of them read.

    Args:
        data: The folder of images, or a folder with `images/` in it.
    """
    return sum(1 for _ in _walk(_root(data)))


def _root(data: Path) -> Path:
    """The folder of images that may be in `images/`."""
    return data / "images" if (data / "images").is_dir() else data


def _walk(root: Path) -> Iterator[str]:
    """Names of all image files under a folder; links are followed, each folder is visited once."""
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
    """Sort key that puts `photo9` before `photo10`."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _spoken(name: str) -> str:
    """A name that can be shown and stored."""
    return UNSPEAKABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)


def _check(root: Path, name: str) -> ImageFile | str:
    """The image of that name, or the reason why it cannot be used."""
    path = root / name
    if UNSPEAKABLE.search(name):
        return "its name holds control characters or bytes that are not UTF-8; rename it"
    if path.exists() and not path.is_file():
        return "not a file"  # reading from a pipe would wait for ever
    try:
        height, width = _decode(path).shape[:2]
    except Exception as error:  # decoders raise whatever a damaged file leads them to
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
        except Exception:  # damaged EXIF data: the pixels are still good
            image = image.copy()
    if image.mode == "F":
        raise ValueError("it holds floating-point values; save it with 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit gray
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("it holds more than 16 bits per channel; save it with 8 or 16")
        gray = ((levels * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _reread(path: Path) -> NDArray[np.uint8]:
    """Decode a file that was readable when the folder was searched."""
    try:
        return _decode(path)
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise NopeSplatError(
            "unreadable-image", f"{path} cannot be read any more: {_reason(path, error)}"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Why an image file cannot be used, in words for its owner."""
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
    """Where masks may lie: in the image folder, or beside it."""
    return [folder for folder in (root / MASK_FOLDER, root.parent / MASK_FOLDER) if folder.is_dir()]


def _find_mask(root: Path, name: str, size: tuple[int, int]) -> Path | None:
    """The mask file of an image, checked."""
    for folder in _mask_folders(root):
        for file in (folder / f"{name}.png", (folder / name).with_suffix(".png"), folder / name):
            if not file.is_file():
                continue
            try:
                height, width = _decode(file).shape[:2]
            except Exception as error:  # decoders raise whatever a damaged file leads them to
                raise NopeSplatError(
                    "unreadable-image", f"the mask {file} cannot be read: {_reason(file, error)}"
                ) from error
            if (width, height) != size:
                raise NopeSplatError(
                    "wrong-size",
                    f"the mask {file} is {width} x {height} pixels but its photo is"
                    f" {size[0]} x {size[1]}; save it again at that size",
                )
            return file
    return None
