"""Image folders: find, check and read images and masks, rotated upright by their EXIF orientation."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.decoding import HEIF_SUFFIXES, failure_reason, open_image, read_pixels, turn_upright
from nope_splat.io.exif import ExifData, read_exif
from nope_splat.utils.progress import progress_bar

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}) | HEIF_SUFFIXES
MASK_FOLDER = "masks"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Pattern of control characters and surrogates (bytes that are not UTF-8). Images with such characters in
their names are skipped, because other tools cannot write these names."""

MAX_READING_THREADS = min(8, os.cpu_count() or 1)
"""Number of threads that read and check images. The number is limited because the C library may keep 64 MB of
memory per thread after large images."""
MIN_SIDE = 32
"""Minimum length of the shorter image side in pixels; smaller images have no keypoints and are skipped."""


@dataclass(frozen=True)
class ImageFile:
    """Readable image file with its name, size and mask."""

    path: Path
    """Path of the image file."""
    name: str
    """Path relative to the image folder, with forward slashes; identifies the image in all stages."""
    width: int
    """Width in pixels at full resolution, after EXIF orientation."""
    height: int
    """Height in pixels at full resolution, after EXIF orientation."""
    mask_path: Path | None = None
    """Path of the mask file, whose black pixels are ignored; None without a mask file."""
    ignored: NDArray[np.bool_] | None = field(default=None, compare=False)
    """Grid of cells over the image (rows, columns), True for cells whose pixels are ignored in addition to
    the black pixels of the mask; None if no cell is ignored."""
    exif: ExifData = field(default=ExifData(), compare=False)
    """EXIF data of the file; defaults for values that are missing."""


@dataclass(frozen=True)
class ImageFolder:
    """Usable and skipped images of a folder."""

    root: Path
    """Folder to which image names are relative."""
    images: tuple[ImageFile, ...]
    """Usable images, in natural order of their names (`photo9` before `photo10`)."""
    skipped: dict[str, str]
    """Reason for skipping, by the name of each image file or subfolder that cannot be used."""


def find_images(data: Path | str) -> ImageFolder:
    """Find and check the images in a folder and its subfolders.

    Every file is decoded once, so that damaged files are reported before later stages start. Hidden files and
    folders, and folders named `masks`, are ignored. The mask of `a/b.jpg` is the file `masks/a/b.jpg.png`,
    `masks/a/b.png` or `masks/a/b.jpg`, where the folder `masks` is in the image folder or next to it.

    Args:
        data: The image folder, or a folder that contains it as `images/`.

    Returns:
        The images, and the files and subfolders that were skipped.

    Raises:
        NopeSplatError: If the folder does not exist or cannot be read, fewer than two images are usable, or a
            mask is damaged or differs in size from its image.
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
    skipped: dict[str, str] = {}

    def skip_folder(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        skipped[_escape(name)] = f"folder cannot be read ({error.strerror})"

    names = sorted(_image_names(root, skip_folder), key=_natural_key)
    if not names:
        raise NopeSplatError(
            "too-few-images",
            f"no photos in {root}; pass a folder that contains image files such as .jpg, .png, .webp or"
            " .tiff",
        )

    with ThreadPoolExecutor(MAX_READING_THREADS) as pool:
        checked = list(
            progress_bar(pool.map(lambda name: _check(root, name), names), "Reading photos", len(names))
        )
    images = tuple(image for image in checked if isinstance(image, ImageFile))
    reasons = {name: reason for name, reason in zip(names, checked, strict=True) if isinstance(reason, str)}
    skipped |= {_escape(name): reason for name, reason in reasons.items()}

    if len(images) < 2:
        found = f"only one readable photo ({images[0].name})" if images else "no readable photos"
        unread = "".join(f"; {name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise NopeSplatError(
            "too-few-images", f"{root} contains {found}, but at least two are needed{unread}"
        )
    existing_mask_folders = [path for path in mask_folders(root) if path.is_dir()]
    for folder in existing_mask_folders:
        if not os.access(folder, os.R_OK | os.X_OK):
            raise NopeSplatError(
                "unreadable-file", f"no permission to read the mask folder {folder}; check its permissions"
            )
    if not any(image.mask_path for image in images):
        for folder in existing_mask_folders:
            logger.warning(f"The masks in {folder} are not used because none has the same name as a photo.")
    return ImageFolder(root, images, skipped)


def read_image(image: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image, rotate it upright, and convert it to 8 bits per channel.

    Args:
        image: The image.
        size: Width and height of the result in pixels; the image is scaled by averaging over pixel areas.
            None for full resolution.

    Returns:
        Colors, 0 to 255: RGB (H, W, 3) or, for images with transparency, RGBA (H, W, 4) with colors that are
        not multiplied by alpha.

    Raises:
        NopeSplatError: If the file can no longer be read.
    """
    with rereading(image.path, size) as opened:
        turn_upright(opened)
        pixels = read_pixels(opened)
        if size is None or size == (pixels.shape[1], pixels.shape[0]):
            return pixels
        if pixels.shape[2] == 3:
            return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return _scale_transparent(pixels, size)


def read_mask(image_file: ImageFile, size: tuple[int, int] | None = None) -> NDArray[np.bool_] | None:
    """Read the mask of an image: its mask file, transparency and ignored grid cells combined.

    Args:
        image_file: The image.
        size: Width and height of the result in pixels; None for full resolution.

    Returns:
        True for used pixels (H, W). A pixel is used if no part of it is black in the mask file, it is at
        least half opaque, and it is in no ignored cell. None if the image has neither mask file, transparency
        nor ignored cells.

    Raises:
        NopeSplatError: If the image or its mask file can no longer be read.
    """

    def resize(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if size is None or size == (image_file.width, image_file.height):
            return values
        return cv2.resize(values, size, interpolation=cv2.INTER_AREA).astype(np.uint8)

    used = None
    if image_file.mask_path is not None:
        # Scaling averages colors without the mask, so a partly masked pixel also contains masked colors.
        with rereading(image_file.mask_path) as mask:
            turn_upright(mask)
            used = resize(255 * np.any(read_pixels(mask)[..., :3], axis=2).astype(np.uint8)) == 255
    with rereading(image_file.path) as image:
        if image.has_transparency_data:  # scaling weights colors by alpha, so half opacity is enough
            turn_upright(image)
            opaque = resize(read_pixels(image)[..., 3]) > 127
            used = opaque if used is None else used & opaque
    if image_file.ignored is not None:
        ignored = image_file.ignored.astype(np.uint8)
        full_size = (image_file.width, image_file.height)
        shown = cv2.resize(ignored, size or full_size, interpolation=cv2.INTER_NEAREST) == 0
        used = shown if used is None else used & shown
    return used


def count_images(data: Path) -> int:
    """Count the files with an image suffix in a folder and its subfolders, without reading them.

    Args:
        data: The image folder, or a folder that contains it as `images/`.
    """
    return sum(1 for _ in _image_names(_image_root(data)))


def list_files(data: Path) -> dict[str, tuple[Path, Path | None]]:
    """List the image files of a folder with their mask files, without reading or checking them.

    Args:
        data: The image folder, or a folder that contains it as `images/`.

    Returns:
        Path of the image file and path of its mask file (None without a mask file), by image name.
    """
    root = _image_root(data)
    return {name: (root / name, _mask_path(root, name)) for name in _image_names(root)}


def mask_folders(root: Path) -> tuple[Path, Path]:
    """Return the two folders that are searched for masks: `masks` in the image folder and `masks` next to it.

    Args:
        root: The image folder.
    """
    return root / MASK_FOLDER, root.parent / MASK_FOLDER


def _image_root(data: Path) -> Path:
    """Return the subfolder `images` of a folder if it exists, else the folder itself."""
    return data / "images" if (data / "images").is_dir() else data


def _image_names(root: Path, on_error: Callable[[OSError], object] = lambda _: None) -> Iterator[str]:
    """Yield the path relative to `root` of each image file in a folder and its subfolders.

    Symbolic links are followed, but each folder is visited only once. `on_error` is called with the error of
    each subfolder that cannot be read.
    """
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, onerror=on_error, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError as error:
            on_error(error)
            subfolders.clear()
            continue
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name != MASK_FOLDER)
        for file in files:
            if file[0] != "." and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                yield (Path(folder) / file).relative_to(root).as_posix()


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key for image names that orders numbers by value, so that `photo9` precedes `photo10`."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _escape(name: str) -> str:
    r"""Replace the unprintable characters of a file name by escapes such as `\x1b`."""
    return UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)


def _check(root: Path, name: str) -> ImageFile | str:
    """Check an image file in the folder `root` by decoding it, and find its mask file.

    Returns:
        The image; if the image cannot be used, the reason as text.
    """
    path = root / name
    if UNPRINTABLE.search(name):
        return "its name contains control characters or bytes that are not UTF-8; rename it"
    try:
        with open_image(path) as image:
            exif = read_exif(image)
            turn_upright(image)
            width, height = image.size
            if image.mode not in ("L", "RGB", "RGBA") or "transparency" in image.info:
                read_pixels(image)  # converting other modes to RGB can fail
    except Exception as error:  # decoders raise many types of exceptions for damaged files
        return failure_reason(path, error)
    if min(width, height) < MIN_SIDE:
        return f"too small, {width} x {height} pixels"
    return ImageFile(path, name, width, height, _find_mask(root, name, (width, height)), exif=exif)


def _scale_transparent(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an RGBA image (H, W, 4) to `size` (width, height).

    Colors are weighted by alpha, so that transparent pixels do not affect the colors of their neighbors.
    """
    alpha = pixels[..., 3].astype(np.float32)
    scaled = np.empty((size[1], size[0], 4), np.float32)
    scaled[..., 3] = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    for channel in range(3):  # channel by channel, since float32 takes four times the memory of uint8
        weighted = pixels[..., channel] * alpha
        scaled[..., channel] = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    scaled[..., :3] /= np.maximum(scaled[..., 3:], 1e-6)
    return np.rint(scaled).astype(np.uint8)


@contextmanager
def rereading(path: Path, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Call `open_image` for an image or mask file; raise `NopeSplatError` if it can no longer be read."""
    try:
        with open_image(path, size) as image:
            yield image
    except Exception as error:  # decoders raise many types of exceptions for damaged files
        raise NopeSplatError(
            "unreadable-image", f"{path} cannot be read anymore: {failure_reason(path, error)}"
        ) from error


def _mask_path(root: Path, name: str) -> Path | None:
    """Find the mask file of an image by the image name, without reading it; None if there is no mask file."""
    for folder in mask_folders(root):
        for file in (folder / f"{name}.png", (folder / name).with_suffix(".png"), folder / name):
            if os.path.isfile(file):  # unlike `Path.is_file`, raises nothing in an unreadable folder
                return file
    return None


def _find_mask(root: Path, name: str, size: tuple[int, int]) -> Path | None:
    """Find the mask file of an image, and check that the mask is readable and as large as the image (`size`).

    Returns:
        Path of the mask file; None if there is no mask file.

    Raises:
        NopeSplatError: If the mask is damaged, or differs in size from the image.
    """
    file = _mask_path(root, name)
    if file is None:
        return None
    try:
        with open_image(file) as mask:
            turn_upright(mask)
            height, width = read_pixels(mask).shape[:2]
    except Exception as error:  # decoders raise many types of exceptions for damaged files
        raise NopeSplatError(
            "unreadable-image", f"the mask {file} cannot be read: {failure_reason(file, error)}"
        ) from error
    if (width, height) != size:
        raise NopeSplatError(
            "wrong-size",
            f"the mask {file} is {width} x {height} pixels, but its photo is {size[0]} x {size[1]};"
            " save the mask at the size of the photo",
        )
    return file
