"""Reading images: orientation, formats, depth, scaling and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import HEIGHT, WIDTH, exif, picture, read, save
from PIL import Image

from nope_splat.io.decoding import open_image, turn_upright
from nope_splat.io.images import ImageFile, find_images, read_image

PEAK = """
import os, sys
from pathlib import Path
os.cpu_count = lambda: 8
from nope_splat.io import decoding
from nope_splat.io.images import find_images
from nope_splat.utils.budget import Budget

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

decoding._decoding = Budget(int(sys.argv[2]))
before = peak()
find_images(Path(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_memory_is_bounded_by_pixels_and_not_by_threads(tmp_path: Path, mode: str) -> None:
    size = 3000
    first = save(Image.new(mode, (size, size), 7), tmp_path / "0.png")
    for number in range(1, 8):
        (tmp_path / f"{number}.png").write_bytes(first.read_bytes())
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(size**2)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}  # what is freed is returned at once
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    kilobytes = int(run.stdout.splitlines()[-1])
    assert kilobytes < 9 * size**2 / 1024 + 30_000  # 8 bytes per pixel of one image; buffers of 8 threads


def smooth(width: int, height: int) -> Image.Image:
    """Create a picture with details of ten pixels."""
    return picture(width // 10, height // 10).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_files_are_decoded_at_a_fraction_of_their_size(
    tmp_path: Path, orientation: int, subsampling: int
) -> None:
    options = {"quality": 95, "subsampling": subsampling, "exif": exif(orientation)}
    path = save(smooth(1280, 960), tmp_path / "large.jpg", **options)
    size = (100, 75) if orientation == 1 else (75, 100)
    with open_image(path, size) as image:
        assert image.size == (320, 240), "at least twice the size"
        turn_upright(image)
        assert image.size == ((320, 240) if orientation == 1 else (240, 320))
    expected = cv2.resize(read(path), size, interpolation=cv2.INTER_AREA)
    difference = read(path, size).astype(int) - expected
    assert np.abs(difference).max() <= 4
    assert np.abs(difference).mean() < 0.5
    assert abs(difference.mean()) < 0.2


@pytest.mark.parametrize(
    ("stored", "size"), [((1284, 964), (80, 60)), ((1282, 962), (330, 240)), ((999, 750), (60, 45))]
)
def test_jpeg_files_are_decoded_whole_if_a_fraction_would_shift_them(
    tmp_path: Path, stored: tuple[int, int], size: tuple[int, int]
) -> None:
    path = save(smooth(*stored), tmp_path / "large.jpg", quality=95)
    expected = {(1284, 964): (321, 241), (1282, 962): (1282, 962), (999, 750): (999, 750)}
    with open_image(path, size) as image:
        assert image.size == expected[stored]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_read_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = picture()
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    for name in "ab":
        save(stored, tmp_path / f"{name}.{suffix}", exif=exif(orientation), quality=95)
    image_file = find_images(tmp_path).images[0]
    assert (image_file.width, image_file.height) == (WIDTH, HEIGHT)
    difference = read_image(image_file).astype(int) - np.asarray(upright)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "photo.webp"])
def test_the_format_is_detected_from_the_content(tmp_path: Path, name: str) -> None:
    frames = [picture(seed=1), picture(seed=2)]
    path = save(frames[0], tmp_path / name, format="gif", save_all=True, append_images=frames[1:])
    assert np.abs(read(path).astype(int) - np.asarray(frames[0])).mean() < 8, "the first frame"


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK", "YCbCr", "RGBA"])
def test_every_color_mode_is_converted_to_8_bit_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tiff" if mode in ("CMYK", "YCbCr") else ".png"
    path = save(picture().convert(mode), tmp_path / f"photo{suffix}")
    pixels = read(path)
    expected = picture().convert(mode).convert("RGB")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (HEIGHT, WIDTH, 4 if mode in ("LA", "RGBA") else 3)
    assert np.abs(pixels[..., :3].astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_gray_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = read(save(Image.fromarray(levels), tmp_path / f"deep{suffix}"))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels[..., 0] - levels / 257).max() <= 0.5


def test_a_very_wide_image_is_read(tmp_path: Path) -> None:
    path = save(picture(20_000, 40), tmp_path / "panorama.jpg")
    assert read(path, (1000, 2)).shape == (2, 1000, 3)


def test_heic_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    for name in "ab":
        save(picture(), tmp_path / f"{name}.heic", quality=90)
    image = find_images(tmp_path).images[0]
    assert np.abs(read_image(image).astype(int) - np.asarray(picture())).mean() < 6


def test_downscaling_averages_over_the_area_of_each_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "noise.png")
    small = read(path, (15, 10))
    assert np.abs(small - pixels.reshape(10, 3, 15, 3, 3).mean(axis=(1, 3))).max() <= 1


def test_transparent_colors_do_not_bleed_when_scaled(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :21] = (200, 100, 50, 255)
    pixels[:, 21:] = (0, 255, 0, 0)
    small = read(save(Image.fromarray(pixels), tmp_path / "cut.png"), (10, 10))
    assert (small[:, :6, :3] == (200, 100, 50)).all()
    assert small[0, :, 3].tolist() == [255] * 5 + [64] + [0] * 4


def test_an_image_that_was_deleted_raises_an_error(tmp_path: Path) -> None:
    path = save(picture(), tmp_path / "a.jpg")
    image = ImageFile(path, path.name, WIDTH, HEIGHT)
    path.unlink()
    with refused("unreadable-image", image.path):
        read_image(image)
