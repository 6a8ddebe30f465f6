"""Decode image files: accepted formats, size and memory limits, EXIF orientation, conversion to 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nope_splat.io.color import ColorProfileError, read_color_codes, srgb_conversion
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

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".heics", ".heifs"})
AVIF_SUFFIXES = frozenset({".avif", ".avifs"})
IMAGE_SUFFIXES = (
    frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".mpo"})
    | frozenset({".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pnm"})
    | frozenset({".jp2", ".j2k", ".j2c", ".jpf", ".jpx"})
    | HEIF_SUFFIXES
    | AVIF_SUFFIXES
)
"""File extensions, in lower case, of files that are read as photos. The extension does not determine the
format, which is detected from the content."""
Image.init()
FORMATS = Image.OPEN.keys() & {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF"}
"""Pillow formats that are accepted; a file's format is detected from its content, not its name. Other formats
are excluded because Pillow would, for example, run Ghostscript on PostScript files."""

AVIF_READABLE = "AVIF" in FORMATS

MAX_PIXELS = 400_000_000
"""Maximum number of pixels of an image; larger images are rejected."""
MAX_PIXELS_AT_ONCE = 200_000_000
"""Maximum number of pixels that all threads together decode at the same time; an image with more pixels is
decoded alone. Decoding takes up to 8 bytes of memory per pixel (4 for Pillow's image, 3 or 4 for the result),
or up to 14 bytes for progressive JPEG files."""
PIXELS_PER_STRIP = 1 << 20
"""Maximum number of pixels in a horizontal strip of an image. Images are converted to 8 bits strip by strip,
which avoids a second copy of the whole image."""
# Pillow raises an error above twice its limit. By default it would reject panoramas of 180 megapixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
_decoding = Budget(MAX_PIXELS_AT_ONCE)


@contextmanager
def open_image(path: Path, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Open an image file within a `with` block.

    The block starts when other threads have finished so much decoding that all threads together decode at
    most `MAX_PIXELS_AT_ONCE` pixels. A larger image is decoded alone.

    Args:
        path: The image file.
        size: Width and height in pixels to which the caller will scale the upright image; None for full
            resolution. If given, JPEG files are decoded at a reduced size if possible, but at no less than
            twice `size`.

    Yields:
        The image, not decoded yet.

    Raises:
        OSError: If the file cannot be read.
        DecompressionBombError: If the image has more than `MAX_PIXELS` pixels.
    """
    with open_regular(path) as file, Image.open(file, formats=sorted(FORMATS)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if (codes := read_color_codes(file, image.format)) is not None:
            image.info["color_codes"] = codes
        scaled_with_alpha = size is not None and image.has_transparency_data  # scaling doubles the memory
        if size is not None:
            _reduce(image, size)
        with _decoding.hold(image.width * image.height * (2 if scaled_with_alpha else 1)):
            try:
                yield image
            finally:
                image.close()  # frees the pixels although the caller still refers to the image


def _reduce(image: Image.Image, size: tuple[int, int]) -> None:
    """Make Pillow decode a JPEG file at 1/2, 1/4 or 1/8 of its size if the result is large enough.

    The reduced image has at least twice the requested size, so that the later averaging to the requested size
    has more influence than the decoder's filter. A factor that does not divide both image sides is not used,
    because the decoder would then pad the last block, which shifts all pixels slightly.

    Args:
        image: The opened image, not decoded yet. Images of other formats than JPEG are not changed.
        size: Requested width and height in pixels, in either order.
    """
    if image.format not in ("JPEG", "MPO"):
        return  # Pillow cannot decode other formats at a reduced size
    longer, shorter = max(image.size), min(image.size)
    for factor in (8, 4, 2):
        divisible = longer % factor == shorter % factor == 0
        if divisible and longer >= 2 * factor * max(size) and shorter >= 2 * factor * min(size):
            image.draft(image.mode, (image.width // factor, image.height // factor))
            return


def turn_upright(image: Image.Image) -> None:
    """Decode an image, and rotate or mirror it in place according to its EXIF orientation.

    Args:
        image: The opened image. If its EXIF data are damaged, the image is decoded but not rotated.
    """
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged EXIF data; the pixels are still usable
        logger.debug("The EXIF data are damaged.", exc_info=True)


def read_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a decoded image to sRGB with 8 bits per channel: to RGBA if it has transparency, else to RGB.

    Args:
        image: The image, after `turn_upright`. A damaged color profile is ignored.

    Returns:
        Colors, 0 to 255. (H, W, 3 or 4).

    Raises:
        ValueError: If the image has floating-point values or more than 16 bits per channel.
    """
    reject_floating_point(image)
    try:
        conversion = srgb_conversion(image)
    except ColorProfileError:
        conversion = None
    is_deep = image.mode.startswith("I")  # 16-bit gray
    mode = "RGBA" if image.has_transparency_data and not is_deep else "RGB"
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows, strip in horizontal_strips(image):
        if is_deep:
            levels = np.asarray(strip)
            gray = _scale_to_8_bits(levels)[..., None]
            pixels[rows] = gray if conversion is None else conversion.apply_16_bit(levels)
        elif conversion is None:
            pixels[rows] = np.asarray(strip.convert(mode))
        else:
            pixels[rows] = conversion.apply(strip, mode)
    return pixels


def read_alpha(image: Image.Image) -> NDArray[np.uint8]:
    """Return the alpha channel of a decoded image that has transparency.

    Args:
        image: The image, after `turn_upright`.

    Returns:
        Alpha, 0 (transparent) to 255 (opaque). (H, W).
    """
    alpha = np.empty((image.height, image.width), np.uint8)
    for rows, strip in horizontal_strips(image):
        alpha[rows] = np.asarray(strip.convert("RGBA"))[..., 3]
    return alpha


def horizontal_strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Divide a decoded image into horizontal strips, from top to bottom.

    A strip has at most `PIXELS_PER_STRIP` pixels, but at least one row.

    Args:
        image: The image, after `turn_upright`.

    Yields:
        The range of image rows that a strip covers, and the strip.
    """
    height = max(1, PIXELS_PER_STRIP // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def reject_floating_point(image: Image.Image) -> None:
    """Raise `ValueError` if an image has floating-point values.

    Args:
        image: The opened image.
    """
    if image.mode == "F":
        raise ValueError("it contains floating-point values; save it with 8 or 16 bits per channel")


def _scale_to_8_bits(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale gray levels of any shape from 16 bits (0 to 65535) to 8 bits (0 to 255), rounded.

    Raises:
        ValueError: If a level is outside the range of 16 bits.
    """
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("it has more than 16 bits per channel; save it with 8 or 16")
    return ((levels.astype(np.int32) * 255 + 32767) // 65535).astype(np.uint8)


def failure_reason(path: Path, error: Exception) -> str:
    """Describe for the user why an image file cannot be used.

    Args:
        path: The image file.
        error: Exception that was raised while the file was opened or decoded.

    Returns:
        Part of a sentence, for example "not an image, or damaged at its start".
    """
    if path.suffix.lower() in HEIF_SUFFIXES and not HEIF_READABLE:
        return "HEIC files need pillow-heif: pip install pillow-heif"
    if path.suffix.lower() in AVIF_SUFFIXES and not AVIF_READABLE:
        return "AVIF files need a newer version of Pillow: pip install --upgrade pillow"
    if isinstance(error, UnidentifiedImageError):
        empty = path.exists() and path.stat().st_size == 0
        return "an empty file" if empty else "not an image, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, NotAFileError):
        return "not a file"
    text = " ".join(str(error).split()) or type(error).__name__  # libheif's messages end with a line feed
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})" if error.strerror else f"damaged ({text})"
    return text
