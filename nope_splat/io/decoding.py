"""Decoding of image files: formats, limits, memory, and orientation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nope_splat.utils.budget import Budget
from nope_splat.utils.files import NotAFileError, open_regular

try:
    from pillow_heif import register_heif_opener
except ImportError:
    HEIF_READABLE = False
else:
    register_heif_opener()
    HEIF_READABLE = True

logger = logging.getLogger(__name__)

HEIF_SUFFIXES = frozenset({".heic", ".heif"})
Image.init()
FORMATS = Image.OPEN.keys() & {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF"}
"""Accepted file formats, regardless of the file name; Pillow would also run Ghostscript on PostScript
files."""

MAX_PIXELS = 400_000_000
"""Maximum number of pixels of a usable image."""
MAX_PIXELS_AT_ONCE = 200_000_000
"""Maximum number of pixels that all threads together decode at a time, or one larger image. Decoding takes up
to 8 bytes per pixel (Pillow's 4, and 3 or 4 of the result), progressive JPEG files up to 14."""
PIXELS_PER_BAND = 1 << 20
"""Pixels that are converted at a time, so that a conversion needs no second whole image."""
# Pillow raises an error at twice its limit; its default would reject 180 megapixels, a modest panorama.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
_decoding = Budget(MAX_PIXELS_AT_ONCE)


@contextmanager
def open_image(path: Path, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Open an image file, and hold its share of `MAX_PIXELS_AT_ONCE` within the block.

    Args:
        path: The file.
        size: Width and height, upright, that the caller will scale the image to; a JPEG file is then opened
            at a fraction of its size if possible, but at least at twice this size. None for full resolution.

    Yields:
        The image, not decoded yet.

    Raises:
        OSError: If the file cannot be read.
        DecompressionBombError: If the image has more than `MAX_PIXELS`.
    """
    with open_regular(path) as file, Image.open(file, formats=sorted(FORMATS)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        scaled_with_alpha = size is not None and image.has_transparency_data  # needs twice the memory
        if size is not None:
            _reduce(image, size)
        with _decoding.hold(image.width * image.height * (2 if scaled_with_alpha else 1)):
            try:
                yield image
            finally:
                image.close()  # frees the pixels, which the caller's variable would keep


def _reduce(image: Image.Image, size: tuple[int, int]) -> None:
    """Let a JPEG file be decoded at 1/2, 1/4 or 1/8 of its size, but at least twice the size asked for.

    Twice, because the final average over areas then hides how the decoder filters. Sides must be divisible:
    the decoder would pad the last block otherwise, which shifts all pixels a little.
    """
    if image.format not in ("JPEG", "MPO"):
        return  # Pillow reduces no other format while decoding
    longer, shorter = max(image.size), min(image.size)
    for factor in (8, 4, 2):
        divisible = longer % factor == shorter % factor == 0
        if divisible and longer >= 2 * factor * max(size) and shorter >= 2 * factor * min(size):
            image.draft(image.mode, (image.width // factor, image.height // factor))
            return


def turn_upright(image: Image.Image) -> None:
    """Decode an image, and turn it upright in place by its EXIF orientation.

    Args:
        image: The image.
    """
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged EXIF data; the pixels are still usable
        logger.debug("The EXIF data are damaged.", exc_info=True)


def read_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Convert an upright image to 8 bits per channel, RGB or (with transparency) RGBA.

    Args:
        image: The image, after `turn_upright`.

    Returns:
        The pixels. (H, W, 3 or 4).

    Raises:
        ValueError: If it has floating-point values or more than 16 bits per channel.
    """
    if image.mode == "F":
        raise ValueError("it contains floating-point values; save it with 8 or 16 bits per channel")
    is_deep = image.mode.startswith("I")  # 16-bit gray
    mode = "RGBA" if image.has_transparency_data and not is_deep else "RGB"
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    rows = max(1, PIXELS_PER_BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if is_deep:
            pixels[top : top + rows] = _scale_to_8_bits(np.asarray(band))[..., None]
        else:
            pixels[top : top + rows] = np.asarray(band.convert(mode))
    return pixels


def _scale_to_8_bits(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale levels of 16 bits to 8 bits."""
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("it has more than 16 bits per channel; save it with 8 or 16")
    return ((levels.astype(np.int32) * 255 + 32767) // 65535).astype(np.uint8)


def failure_reason(path: Path, error: Exception) -> str:
    """Explain to the user why an image file cannot be used.

    Args:
        path: The file.
        error: What was raised while it was read.
    """
    if path.suffix.lower() in HEIF_SUFFIXES and not HEIF_READABLE:
        return "HEIC files need pillow-heif: pip install pillow-heif"
    if isinstance(error, UnidentifiedImageError):
        empty = path.exists() and path.stat().st_size == 0
        return "an empty file" if empty else "not an image, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, NotAFileError):
        return "not a file"
    text = " ".join(str(error).split()) or type(error).__name__  # libheif ends its texts with a line feed
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})" if error.strerror else f"damaged ({text})"
    return text
