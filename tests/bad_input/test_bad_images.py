"""Test that unusable files are skipped with a reason, and that unusual files are read.

Errors about folders and masks are tested in test_images.py and test_cli.py.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import HEIGHT, WIDTH, picture, save
from PIL import Image

from nope_splat.errors import ErrorCode
from nope_splat.io.images import find_images, read_image, read_mask

Write = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two valid images."""
    save(picture(seed=1), tmp_path / "good1.jpg")
    save(picture(seed=2), tmp_path / "good2.png")
    return tmp_path


def cut(share: float, suffix: str) -> Write:
    """Write only the first part of an image file."""

    def write(path: Path) -> None:
        content = save(picture(), path.with_name(f".whole.{suffix}")).read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return write


def claims(width: int, height: int) -> Write:
    """Write a small PNG file with a size in its header."""

    def write(path: Path) -> None:
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT")

    return write


def text(content: str) -> Write:
    return lambda path: path.write_text(content)


def pixels(array: np.ndarray) -> Write:
    return lambda path: Image.fromarray(array).save(path)


NO_IMAGE = "not an image, or damaged at its start"
BAD_NAME = "its name contains control characters or bytes that are not UTF-8; rename it"
SKIPPED: dict[str, tuple[str, Write, str]] = {
    "empty": ("a.jpg", text(""), "an empty file"),
    "web page": ("a.jpg", text("<!DOCTYPE html><html></html>"), NO_IMAGE),
    "drawing": ("a.png", text("<svg xmlns='http://www.w3.org/2000/svg'/>"), NO_IMAGE),
    "PostScript": (
        "a.jpg",
        text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EOF"),
        NO_IMAGE,
    ),
    "zeros": ("a.tif", lambda path: path.write_bytes(bytes(5000)), NO_IMAGE),
    "jpg cut in its header": ("a.jpg", cut(0.02, "jpg"), NO_IMAGE),
    "png cut": ("a.png", cut(0.5, "png"), "damaged (image file is truncated)"),
    "a billion pixels claimed": ("a.png", claims(60_000, 60_000), "more than 400,000,000 pixels"),
    "a dot": ("a.png", pixels(np.zeros((1, 1, 3), np.uint8)), "too small, 1 x 1 pixels"),
    "a line": ("a.png", pixels(np.zeros((1, 500, 3), np.uint8)), "too small, 500 x 1 pixels"),
    "floating point": (
        "a.tif",
        pixels(np.ones((HEIGHT, WIDTH), np.float32)),
        "it contains floating-point values; save it with 8 or 16 bits per channel",
    ),
    "32 bits": (
        "a.tif",
        pixels(np.full((HEIGHT, WIDTH), 1 << 20, np.int32)),
        "it has more than 16 bits per channel; save it with 8 or 16",
    ),
    "a link to nowhere": (
        "a.jpg",
        lambda path: path.symlink_to(path.parent / "nowhere.jpg"),
        "cannot be read (No such file or directory)",
    ),
    "a link to itself": (
        "a.jpg",
        lambda path: path.symlink_to(path),
        "cannot be read (Too many levels of symbolic links)",
    ),
    "a pipe": ("a.jpg", os.mkfifo, "not a file"),
    "a line break in the name": (
        "a\nb.jpg",
        lambda path: shutil.copy(path.with_name("good1.jpg"), path),
        BAD_NAME,
    ),
    "a name that is not UTF-8": (
        os.fsdecode(b"caf\xe9.jpg"),
        lambda path: shutil.copy(path.with_name("good1.jpg"), path),
        BAD_NAME,
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_unusable_files_are_skipped_with_a_reason(case: str, folder: Path) -> None:
    name, write, reason = SKIPPED[case]
    write(folder / name)
    images = find_images(folder)
    assert [image.name for image in images.images] == ["good1.jpg", "good2.png"]
    ((printed_name, printed_reason),) = images.skipped.items()
    assert printed_reason == reason
    assert printed_name.isprintable()
    printed_name.encode()


def deep(path: Path) -> None:
    cv2.imwrite(str(path), np.asarray(picture())[..., ::-1] * np.uint16(257))


def frames(path: Path) -> None:
    picture().save(path, save_all=True, append_images=[picture(seed=3)])


UNUSUAL: dict[str, tuple[str, Write]] = {
    "gray": ("a.png", lambda path: picture().convert("L").save(path)),
    "palette": ("a.png", lambda path: picture().quantize(256).save(path)),
    "CMYK jpg": ("a.jpg", lambda path: picture().convert("CMYK").save(path, quality=95)),
    "CMYK tiff": ("a.tif", lambda path: picture().convert("CMYK").save(path)),
    "Lab": ("a.tif", lambda path: picture().convert("LAB").save(path)),
    "16 bits, color": ("a.png", deep),
    "16 bits, gray": ("a.png", pixels(np.asarray(picture().convert("L")) * np.uint16(257))),
    "animated png": ("a.png", frames),
    "animated webp": ("a.webp", frames),
    "several pages": ("a.tif", frames),
    "two pictures of a stereo camera": ("a.jpg", lambda path: picture().save(path, "MPO", save_all=True)),
    "bmp named jpg": ("a.jpg", lambda path: picture().save(path, "BMP")),
    "jpeg 2000 named jpg": ("a.jpg", lambda path: picture().save(path, "JPEG2000")),
    "gif named png": ("a.png", lambda path: picture().save(path, "GIF")),
    "png named JPEG": ("a.JPEG", lambda path: picture().save(path, "PNG")),
    "spaces and other scripts": ("мои фото/день 1 .jpg", lambda path: save(picture(), path)),
    "a name of 250 letters": ("x" * 246 + ".jpg", lambda path: save(picture(), path)),
    "a smile and an arabic mark": ("\U0001f600 \u200f.jpg", lambda path: save(picture(), path)),
    "a percent sign and quotes": ("100% 'real' \"photo\" #1.jpg", lambda path: save(picture(), path)),
    "a read-only file in a read-only folder": ("sub/a.jpg", lambda path: read_only(save(picture(), path))),
}


def read_only(path: Path) -> None:
    path.chmod(0o444)
    path.parent.chmod(0o555)


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_files_are_read(case: str, folder: Path) -> None:
    name, write = UNUSUAL[case]
    write(folder / name)
    images = find_images(folder)
    (folder / name).parent.chmod(0o755)  # so that pytest can remove it
    assert images.skipped == {}
    (image,) = (image for image in images.images if not image.name.startswith("good"))
    assert image.name == name
    colors = read_image(image)
    assert (colors.shape, colors.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    gray = "gray" in case
    expected = np.asarray(picture().convert("L").convert("RGB") if gray else picture()).astype(int)
    assert np.abs(colors - expected).mean() < 12  # quantized by a palette or JPEG


MASKS: dict[str, tuple[Write, ErrorCode, tuple[str, ...]]] = {
    "turned": (pixels(np.zeros((WIDTH, HEIGHT), np.uint8)), "wrong-size", ("48 x 64", "64 x 48")),
    "empty": (text(""), "unreadable-image", ("an empty file",)),
    "no image": (text("mask"), "unreadable-image", (NO_IMAGE,)),
    "cut": (cut(0.5, "png"), "unreadable-image", ("damaged (image file is truncated)",)),
}


@pytest.mark.parametrize("case", MASKS)
def test_an_unusable_mask_raises(case: str, folder: Path) -> None:
    write, code, named = MASKS[case]
    mask = folder / "masks" / "good1.png"
    mask.parent.mkdir()
    write(mask)
    with refused(code, mask, *named):
        find_images(folder)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_masks_of_any_bit_depth_are_read(white: int, folder: Path) -> None:
    """All pixels that are not black are used."""
    half = np.zeros((HEIGHT, WIDTH), np.uint16 if white > 255 else np.uint8)
    half[:, : WIDTH // 2] = white
    (folder / "masks").mkdir()
    Image.fromarray(half).save(folder / "masks" / "good1.png")
    mask = read_mask(find_images(folder).images[0])
    assert mask is not None
    assert mask.mean() == 0.5


def test_reasons_of_damaged_heic_files_are_one_line(folder: Path) -> None:
    pytest.importorskip("pillow_heif")
    whole = save(picture(), folder / ".whole.heic", quality=90).read_bytes()
    for share in range(1, 20):
        (folder / f"{share}.heic").write_bytes(whole[: share * len(whole) // 20])
    skipped = find_images(folder).skipped
    assert len(skipped) > 10
    assert all(reason == " ".join(reason.split()) for reason in skipped.values())
