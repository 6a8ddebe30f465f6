"""Color profiles: find the color space of an image, and convert its colors to sRGB."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

ColorProblem = Literal["damaged", "hdr"]
"""Why the colors of an image cannot be converted to sRGB: "damaged" if the color profile is damaged or does
not fit the image, "hdr" if the colors are HDR."""

MAX_SRGB_DIFFERENCE = 2
"""A profile is treated as sRGB if its conversion to sRGB changes colors by at most this number of levels (0
to 255). Published sRGB profiles differ by up to this number, because their curves are rounded differently."""
D65 = (0.3127, 0.3290)
"""Chromaticity (x, y) of the white point of most color spaces."""
SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""Chromaticities of sRGB: x and y of red, green and blue."""
CODED_PRIMARIES = {
    1: (D65, SRGB_PRIMARIES),
    2: (D65, SRGB_PRIMARIES),  # unspecified
    9: (D65, (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),  # BT.2020
    11: ((0.314, 0.351), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),  # DCI-P3
    12: (D65, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),  # Display P3
}
"""Chromaticities (x, y) of the white point and of red, green and blue, by `ColourPrimaries` code in ITU-T
H.273."""
CODED_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
"""Exponents of transfer functions that are pure power functions, by their code in ITU-T H.273. All other
functions except HDR are treated as the sRGB transfer function, as cameras and browsers do."""
CODED_HDR = (16, 18)
"""Codes of the HDR transfer functions PQ and HLG in ITU-T H.273."""
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""Matrix from XYZ to cone responses, for the Bradford adaptation of white points (Lam 1985)."""
D50 = np.array([0.9642, 1.0, 0.8249])
"""XYZ of the white point of ICC profiles."""


class ColorProfileError(ValueError):
    """Error for an image whose colors cannot be converted to sRGB.

    Args:
        problem: The kind of problem.
    """

    def __init__(self, problem: ColorProblem) -> None:
        super().__init__(problem)
        self.problem: ColorProblem = problem


@dataclass(frozen=True)
class SrgbConversion:
    """Conversion of the colors of an image to sRGB, with 8 bits per channel."""

    transform: ImageCms.ImageCmsTransform | None
    """Transform of RGB, RGBA or CMYK colors; None for gray images."""
    table: NDArray[np.uint8] | None = None
    """sRGB color (0 to 255) of each gray level, for gray images; None for other images. (256, 3)."""

    def apply(self, strip: Image.Image, mode: str) -> NDArray[np.uint8]:
        """Convert the colors of a horizontal strip of the image.

        Args:
            strip: The strip, in the Pillow mode of the image.
            mode: Pillow mode of the result, "RGB" or "RGBA". Alpha is not changed.

        Returns:
            Colors, 0 to 255. (H, W, 3 or 4).
        """
        if self.table is not None:
            gray = np.asarray(strip.convert("LA" if mode == "RGBA" else "L"))
            if mode == "RGB":
                return self.table[gray]
            return np.concatenate([self.table[gray[..., 0]], gray[..., 1:]], axis=2)
        assert self.transform is not None
        colors = strip if strip.mode == "CMYK" else strip.convert(mode)
        return np.asarray(self.transform.apply(colors))

    def apply_16_bit(self, levels: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert gray levels of 16 bits to sRGB colors of 8 bits.

        Args:
            levels: Gray levels, 0 to 65535. (H, W).

        Returns:
            Colors, 0 to 255. (H, W, 3).
        """
        assert self.table is not None
        steps = np.arange(256)
        colors = [np.interp(levels / 257, steps, self.table[:, channel]) for channel in range(3)]
        return np.rint(np.stack(colors, axis=-1)).astype(np.uint8)


def srgb_conversion(image: Image.Image) -> SrgbConversion | None:
    """Return the conversion of an image's colors to sRGB.

    The color space is read from the ICC profile; in PNG files also from the chunks cICP, gAMA and cHRM; in
    HEIF and AVIF files from the nclx codes; and in JPEG files from the EXIF interoperability index, with
    which cameras mark Adobe RGB.

    Args:
        image: The opened image; decoded or not.

    Returns:
        The conversion; None if the color space is sRGB or unknown.

    Raises:
        ColorProfileError: If the profile is damaged or does not fit the image, or the colors are HDR.
    """
    if image.mode == "LAB":  # independent of profiles
        return None
    profile = _profile(image)
    if profile is None:
        return None
    gray = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
    mode = "L" if gray else "CMYK" if image.mode == "CMYK" else "RGB"
    if mode == "RGB" and image.has_transparency_data:
        mode = "RGBA"
    try:
        return _conversion(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ColorProfileError("damaged") from error


def color_problem(image: Image.Image) -> ColorProblem | None:
    """Return why the colors of an image cannot be converted to sRGB; None if they can be, or are sRGB.

    Args:
        image: The opened image; decoded or not.
    """
    try:
        srgb_conversion(image)
    except ColorProfileError as error:
        return error.problem
    return None


def read_color_codes(file: BinaryIO, image_format: str | None) -> tuple[int, int] | None:
    """Read the color space of a PNG or AVIF file, if it is given by codes of the standard ITU-T H.273.

    Pillow does not read these codes. The file position is restored afterwards.

    Args:
        file: The file.
        image_format: Pillow's name of the format.

    Returns:
        The codes of the primaries and of the transfer function; None if the file does not contain them, or is
        neither a PNG nor an AVIF file.
    """
    if image_format not in ("PNG", "AVIF"):
        return None
    position = file.tell()
    try:
        return _png_codes(file) if image_format == "PNG" else _avif_codes(file)
    finally:
        file.seek(position)


def matrix_profile(
    primaries: tuple[float, ...], white: tuple[float, float] = D65, gamma: float | None = None
) -> bytes:
    """Create an ICC profile of an RGB color space.

    Args:
        primaries: Chromaticities x and y of red, green and blue. (6,).
        white: Chromaticity (x, y) of the white point.
        gamma: Exponent of a power function as transfer function; None for the sRGB transfer function.

    Raises:
        ValueError: If a chromaticity y is not positive, or the primaries are (nearly) collinear.
    """
    x, y = np.reshape(primaries, (3, 2)).T
    if min(*y, white[1]) <= 0:
        raise ValueError("a chromaticity is not positive")
    directions = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    white_xyz = np.array([white[0] / white[1], 1.0, (1 - white[0] - white[1]) / white[1]])
    try:
        scale = np.linalg.solve(directions, white_xyz)
    except np.linalg.LinAlgError as error:
        raise ValueError("the primaries are on a line") from error
    adaptation = np.linalg.solve(BRADFORD, np.diag(BRADFORD @ D50 / (BRADFORD @ white_xyz)) @ BRADFORD)
    columns = (adaptation @ (directions * scale)).T
    if not np.isfinite(columns).all() or np.abs(columns).max() > 10:
        raise ValueError("the primaries are nearly on a line")
    curve = struct.pack(">4s4xHH", b"para", 3, 0) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    if gamma is not None:
        curve = struct.pack(">4s4xHH", b"para", 0, 0) + _fixed(gamma)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)}
    for name, column in zip(b"rgb", columns, strict=True):
        tags[bytes([name]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*column)
        tags[bytes([name]) + b"TRC"] = curve
    return _profile_file(tags)


def _profile_file(tags: dict[bytes, bytes]) -> bytes:
    """Return the bytes of an ICC display profile (version 4) for RGB with the given tags."""
    start = 128 + 4 + 12 * len(tags)
    table, body = b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s", start + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    header = header.ljust(68, b"\0") + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(*values: float) -> bytes:
    """Encode numbers as s15Fixed16, the fixed-point format of ICC profiles."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


ADOBE_RGB = matrix_profile((0.64, 0.33, 0.21, 0.71, 0.15, 0.06), gamma=563 / 256)
"""ICC profile of Adobe RGB (1998)."""


def _profile(image: Image.Image) -> bytes | None:
    """Return the embedded ICC profile of an image, or a profile created from other color metadata.

    Returns:
        The profile; None if the color space is sRGB or unknown.

    Raises:
        ColorProfileError: If the profile or metadata are damaged, or the colors are HDR.
    """
    info = image.info
    codes = info.get("color_codes")
    if image.format == "PNG" and codes is not None:  # has priority over the other chunks
        return _coded_profile(*codes)
    if "icc_profile" in info:
        if not info["icc_profile"] or not isinstance(info["icc_profile"], bytes):
            raise ColorProfileError("damaged")  # parts are missing, or it is a TIFF tag of another type
        return info["icc_profile"]
    if isinstance(nclx := info.get("nclx_profile"), dict):
        codes = nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2)
    if codes is not None:
        return _coded_profile(*codes)
    if image.format == "PNG" and "srgb" not in info:
        return _png_profile(info.get("gamma"), info.get("chromaticity"))
    if image.format in ("JPEG", "MPO"):
        with suppress(Exception):  # damaged EXIF data
            if str(image.getexif().get_ifd(ExifTags.IFD.Interop).get(1, "")).startswith("R03"):
                return ADOBE_RGB
    return None


@lru_cache(maxsize=64)
def _coded_profile(primaries: int, transfer: int) -> bytes | None:
    """Create an ICC profile from codes of ITU-T H.273; None for sRGB and for unsupported primaries."""
    if transfer in CODED_HDR:
        raise ColorProfileError("hdr")
    if primaries not in CODED_PRIMARIES:
        return None
    gamma = CODED_GAMMAS.get(transfer)
    white, chromaticities = CODED_PRIMARIES[primaries]
    if gamma is None and chromaticities == SRGB_PRIMARIES:
        return None
    return matrix_profile(chromaticities, white, gamma)


@lru_cache(maxsize=64)
def _png_profile(gamma: float | None, chromaticity: tuple[float, ...] | None) -> bytes | None:
    """Create an ICC profile from the chunks gAMA and cHRM of a PNG file; None if they describe sRGB.

    Args:
        gamma: Exponent that converts linear light to levels, as in gAMA. Exponents within 5 percent of 1/2.2
            stand for the sRGB transfer function, as in libpng, because most programs write 1/2.2 for sRGB.
        chromaticity: Chromaticities x and y of white, red, green and blue, as in cHRM. (8,).
    """
    if gamma is not None and not 0.1 <= gamma <= 10:
        raise ColorProfileError("damaged")
    exponent = None if gamma is None or abs(2.2 * gamma - 1) <= 0.05 else 1 / gamma
    white, primaries = D65, SRGB_PRIMARIES
    if chromaticity is not None and np.abs(np.subtract(chromaticity, (*D65, *SRGB_PRIMARIES))).max() > 0.002:
        white, primaries = (chromaticity[0], chromaticity[1]), tuple(chromaticity[2:])
    if exponent is None and primaries == SRGB_PRIMARIES and white == D65:
        return None
    try:
        return matrix_profile(primaries, white, exponent)
    except ValueError as error:
        raise ColorProfileError("damaged") from error


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> SrgbConversion | None:
    """Return the conversion from the colors of an ICC profile to sRGB; None if the profile is sRGB.

    Args:
        profile: The ICC profile.
        mode: Pillow's mode of the colors: "L", "RGB", "RGBA" or "CMYK".

    Raises:
        PyCMSError: If the profile is damaged, or does not fit `mode`.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    from_gray = mode == "L" and profile[16:20] == b"GRAY"  # the color space, in the header
    input_mode = "RGB" if mode == "L" and not from_gray else mode
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        input_mode,
        "RGBA" if mode == "RGBA" else "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    levels = np.arange(256, dtype=np.uint8)
    ramp = Image.fromarray(levels[None])
    table = np.asarray(transform.apply(ramp if from_gray else ramp.convert(input_mode)))[0, :, :3]
    if mode == "L":
        is_srgb = _same(table, levels[:, None])
        return None if is_srgb else SrgbConversion(None, table)
    if mode != "CMYK" and _same(table, levels[:, None]):
        grid = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), -1).reshape(1, -1, 3)
        colors = np.asarray(transform.apply(Image.fromarray(grid).convert(mode)))[..., :3]
        if _same(colors, grid):
            return None
    return SrgbConversion(transform)


def _same(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Check whether all 8-bit levels of two color arrays differ by at most `MAX_SRGB_DIFFERENCE`."""
    return bool(np.abs(first.astype(int) - second).max() <= MAX_SRGB_DIFFERENCE)


def _png_codes(file: BinaryIO) -> tuple[int, int] | None:
    """Read the codes of primaries and transfer function (chunk cICP) of a PNG file; None if missing."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"cICP" and length == 4:
            content = file.read(4)
            return (content[0], content[1]) if len(content) == 4 else None
        if kind in (b"IDAT", b"IEND"):
            return None
        file.seek(length + 4, io.SEEK_CUR)
    return None


def _avif_codes(file: BinaryIO) -> tuple[int, int] | None:
    """Read the codes of primaries and transfer function (nclx) of an AVIF file; None if missing."""
    file.seek(0)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"meta":
            _, found, codes = file.read(min(length, 1 << 20)).partition(b"colrnclx")
            return struct.unpack(">HH", codes[:4]) if found and len(codes) >= 4 else None
        if length < 8:  # the rest of the file, or a 64-bit length, which only image data need
            return None
        file.seek(length - 8, io.SEEK_CUR)
    return None
