"""Colors of all color spaces are read as sRGB."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fixtures.image_files import picture, read, save
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from nope_splat.io.color import ADOBE_RGB, color_problem, matrix_profile, srgb_conversion
from nope_splat.io.decoding import open_image
from nope_splat.io.images import find_images

P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
PROFILES = {
    "Display P3": matrix_profile(P3),
    "Adobe RGB": ADOBE_RGB,
    "ProPhoto RGB": matrix_profile((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), (0.3457, 0.3585), 1.8),
    "linear": matrix_profile((0.64, 0.33, 0.30, 0.60, 0.15, 0.06), gamma=1.0),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def soft_picture() -> Image.Image:
    """Create a picture without very dark colors, whose levels in linear profiles are few."""
    return picture().point(lambda level: 40 + level * 0.8)


def in_profile(profile: bytes) -> Image.Image:
    """Convert the picture from sRGB to an RGB profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(soft_picture(), srgb, target, outputMode="RGB")
    assert image is not None
    del image.info["icc_profile"]  # would be saved
    return image


def psnr(first: NDArray[np.uint8], second: Image.Image | NDArray[np.uint8]) -> float:
    return float(-10 * np.log10(np.mean((first / 255.0 - np.asarray(second) / 255.0) ** 2) + 1e-12))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_profiles_are_converted_to_srgb(tmp_path: Path, name: str, suffix: str) -> None:
    stored = in_profile(PROFILES[name])
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = save(stored, tmp_path / f"a.{suffix}", icc_profile=PROFILES[name], **lossless)
    assert psnr(np.asarray(stored), soft_picture()) < 40
    assert psnr(read(path), soft_picture()) > (38 if name == "linear" else 45)


@pytest.mark.parametrize("profile", [SRGB, matrix_profile((0.64, 0.33, 0.30, 0.60, 0.15, 0.06))])
def test_srgb_profiles_change_nothing(tmp_path: Path, profile: bytes) -> None:
    for mode in ("RGB", "RGBA", "L"):
        path = save(picture().convert(mode), tmp_path / f"{mode}.png", icc_profile=profile)
        with open_image(path) as image:
            assert srgb_conversion(image) is None
        expected = picture().convert(mode)
        assert np.array_equal(read(path), np.asarray(expected.convert("RGB") if mode == "L" else expected))


def test_alpha_is_kept(tmp_path: Path) -> None:
    stored = in_profile(PROFILES["Display P3"]).convert("RGBA")
    alpha = np.arange(stored.width * stored.height, dtype=np.uint32).reshape(stored.height, -1) % 256
    stored.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    pixels = read(save(stored, tmp_path / "a.png", icc_profile=PROFILES["Display P3"]))
    assert np.array_equal(pixels[..., 3], alpha)
    assert psnr(pixels[..., :3], soft_picture()) > 45


def gray_profile(gamma: float) -> bytes:
    """Create a gray profile with a power as transfer function."""
    xyz = struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * value) for value in (0.9642, 1.0, 0.8249)))
    curve = struct.pack(">4s4xIH2x", b"curv", 1, round(256 * gamma))
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(xyz), b"kTRC", 156 + len(xyz), len(curve))
    size = 128 + len(table) + len(xyz) + len(curve)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + xyz[8:] + bytes(48) + table + xyz + curve


@pytest.mark.parametrize("is_deep", [False, True])
def test_gray_profiles_are_converted(tmp_path: Path, is_deep: bool) -> None:
    light = np.linspace(0.05, 1, 64 * 48).reshape(48, 64)
    expected = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    stored = light ** (1 / 1.8)
    white, depth = (65535, np.uint16) if is_deep else (255, np.uint8)
    levels = (white * stored).round().astype(depth)
    path = save(Image.fromarray(levels), tmp_path / "a.png", icc_profile=gray_profile(1.8))
    assert np.abs(read(path) - expected[..., None]).max() < (1.2 if is_deep else 2)
    assert np.abs(levels / (257 if is_deep else 1) - expected).max() > 8


@pytest.mark.parametrize("mode", ["L", "P", "YCbCr"])
def test_rgb_profiles_of_other_modes(tmp_path: Path, mode: str) -> None:
    image = soft_picture().convert("L").convert("RGB") if mode == "L" else soft_picture()
    stored = image.convert(mode) if mode != "P" else image.quantize(256)
    path = save(stored, tmp_path / "a.tif", icc_profile=PROFILES["Adobe RGB"])
    source = ImageCms.ImageCmsProfile(io.BytesIO(ADOBE_RGB))
    expected = ImageCms.profileToProfile(stored.convert("RGB"), source, ImageCms.createProfile("sRGB"))
    assert expected is not None
    assert psnr(read(path), expected) > 45


def png_with(path: Path, **chunks: bytes) -> Path:
    """Insert chunks before the pixels of a PNG file."""
    content = path.read_bytes()
    inserted = b""
    for name, data in chunks.items():
        body = name.encode() + data
        inserted += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content[:33] + inserted + content[33:])
    return path


def chromaticities(*values: float) -> bytes:
    return struct.pack(">8I", *(round(100_000 * value) for value in values))


def test_colors_described_by_png_chunks(tmp_path: Path) -> None:
    stored = in_profile(PROFILES["Display P3"])
    code = png_with(save(stored, tmp_path / "code.png"), cICP=bytes([12, 13, 0, 1]))
    assert psnr(read(code), soft_picture()) > 45
    white = chromaticities(0.3127, 0.3290, *P3)
    described = png_with(save(stored, tmp_path / "described.png"), gAMA=struct.pack(">I", 45455), cHRM=white)
    assert psnr(read(described), soft_picture()) > 45
    linear = save(in_profile(PROFILES["linear"]), tmp_path / "linear.png")
    assert psnr(read(png_with(linear, gAMA=struct.pack(">I", 100_000))), soft_picture()) > 38


def test_png_chunks_of_srgb_change_nothing(tmp_path: Path) -> None:
    white = chromaticities(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    path = png_with(save(picture(), tmp_path / "a.png"), gAMA=struct.pack(">I", 45455), cHRM=white)
    assert np.array_equal(read(path), np.asarray(picture()))
    path = png_with(save(picture(), tmp_path / "b.png"), sRGB=b"\0", gAMA=struct.pack(">I", 100_000))
    assert np.array_equal(read(path), np.asarray(picture())), "sRGB has priority"


def test_display_p3_of_heif_without_a_profile(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    options = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
    path = save(in_profile(PROFILES["Display P3"]), tmp_path / "a.heic", quality=100, chroma=444, **options)
    assert psnr(read(path), soft_picture()) > 42


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="Pillow cannot write AVIF")
def test_display_p3_of_avif_without_a_profile(tmp_path: Path) -> None:
    stored = in_profile(PROFILES["Display P3"])
    path = save(stored, tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    content = path.read_bytes()
    assert content.count(b"colrnclx\0\x01") == 1
    path.write_bytes(content.replace(b"colrnclx\0\x01", b"colrnclx\0\x0c"))
    assert psnr(read(path), soft_picture()) > 42
    path.write_bytes(content.replace(b"colrnclx\0\x01\0\x0d", b"colrnclx\0\x09\0\x10"))
    with open_image(path) as image:
        assert color_problem(image) == "hdr"


def test_adobe_rgb_by_exif_as_cameras_write_it(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03"}
    path = save(in_profile(ADOBE_RGB), tmp_path / "_a.jpg", quality=100, subsampling=0, exif=tags)
    assert psnr(read(path), soft_picture()) > 42


def test_damaged_profiles_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = {
        "short.png": SRGB[:100],
        "noise.png": b"no profile" * 20,
        "other.png": gray_profile(2.2),  # of gray images
    }
    for name, profile in damaged.items():
        save(picture(), tmp_path / name, icc_profile=profile)
    save(picture(), tmp_path / "good.png")
    for image in find_images(tmp_path).images:
        assert np.array_equal(read(image.path), np.asarray(picture()))
    (message,) = [text for text in caplog.messages if "color profile" in text]
    assert all(name in message for name in damaged)
    assert "good.png" not in message


def cmyk_profile() -> bytes:
    """Create a CMYK profile in which only black ink matters: lightness is 100 without it, and 0 with it."""
    ramp = bytes(range(256))
    lab = b"".join(bytes([255 * (1 - node % 2), 128, 128]) for node in range(16))  # black changes fastest
    matrix = struct.pack(">9i", *(np.eye(3, dtype=int) << 16).ravel())
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + lab + 3 * ramp
    size = 144 + len(table)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    white = struct.pack(">3i", *(round(65536 * value) for value in (0.9642, 1.0, 0.8249)))
    start = header.ljust(68, b"\0") + white + bytes(48)
    return start + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_cmyk_profiles_are_converted(tmp_path: Path) -> None:
    ink = np.zeros((48, 64, 4), np.uint8)
    ink[:, :32, :3] = 200  # means nothing in this profile
    ink[24:, :, 3] = 255
    stored = Image.frombytes("CMYK", (64, 48), ink.tobytes())
    pixels = read(save(stored, tmp_path / "a.tif", icc_profile=cmyk_profile()))
    assert pixels[:24].min() >= 253
    assert pixels[24:].max() <= 2


def test_cmyk_without_a_profile_is_read_as_before(tmp_path: Path) -> None:
    path = save(picture().convert("CMYK"), tmp_path / "a.tif", icc_profile=SRGB)  # a profile of RGB
    assert np.array_equal(read(path), np.asarray(picture().convert("CMYK").convert("RGB")))


def test_impossible_primaries_raise() -> None:
    for primaries in ((0.3, 0.3, 0.3, 0.3, 0.3, 0.3), (0.64, 0.0, 0.30, 0.60, 0.15, 0.06)):
        with pytest.raises(ValueError, match=r"primaries|chromaticity"):
            matrix_profile(primaries)
