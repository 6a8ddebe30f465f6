"""Image folders: finding, checking, orienting and reading images and masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import HEIGHT, WIDTH, picture, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nope_splat.io import decoding, images
from nope_splat.io.decoding import open_image, turn_upright
from nope_splat.io.images import ImageFile, find_images, read_image, read_mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save two valid images, and return their folder."""
    save(picture(seed=1), tmp_path / "photos" / "good1.jpg")
    save(picture(seed=2), tmp_path / "photos" / "good2.png")
    return tmp_path / "photos"


def names(data: Path) -> list[str]:
    return [image.name for image in find_images(data).images]


def read(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    with open_image(path) as image:
        turn_upright(image)
        return read_image(ImageFile(path, path.name, *image.size), size)


# --- Which files are found ---


def test_images_are_sorted_naturally(tmp_path: Path) -> None:
    expected = ["IMG_2.jpg", "img_10.JPG", "my holiday 1.png", "день/фото 9.webp", "день/фото 10.webp"]
    for name in reversed(expected):
        save(picture(), tmp_path / name)
    assert names(tmp_path) == expected


def test_the_subfolder_images_is_used_if_it_exists(folder: Path) -> None:
    folder.rename(folder.parent / "images")
    save(picture(200, 100), folder.parent / "preview.jpg")
    image_folder = find_images(folder.parent)
    assert image_folder.root == folder.parent / "images"
    assert [image.name for image in image_folder.images] == ["good1.jpg", "good2.png"]


def test_hidden_files_other_files_and_masks_are_ignored(folder: Path) -> None:
    for name in [".trash/a.jpg", "._good1.jpg", "masks/good1.png", "sub/masks/a.png"]:
        save(picture(), folder / name)
    (folder / "notes.txt").write_text("no photo")
    assert names(folder) == ["good1.jpg", "good2.png"]
    assert find_images(folder).skipped == {}


def test_links_are_followed_and_loops_are_not(folder: Path) -> None:
    save(picture(), folder.parent / "elsewhere" / "linked.jpg")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "up").symlink_to(folder.parent / "elsewhere", target_is_directory=True)
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (folder / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    image_folder = find_images(folder)
    assert [image.name for image in image_folder.images] == ["good1.jpg", "good2.png", "up/linked.jpg"]
    assert image_folder.skipped["broken.jpg"] == "cannot be read (No such file or directory)"
    assert "cannot be read" in image_folder.skipped["self.jpg"]


# --- Invalid folders and files ---


def test_a_missing_folder_raises_an_error(tmp_path: Path) -> None:
    with refused("missing-file", tmp_path / "nowhere"):
        find_images(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_raises_an_error(folder: Path) -> None:
    with refused("unreadable-file", folder / "good1.jpg"):
        find_images(folder / "good1.jpg")


def test_an_empty_folder_raises_an_error(tmp_path: Path) -> None:
    with refused("too-few-images", tmp_path):
        find_images(tmp_path)


def test_a_folder_without_read_permission_raises_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.os, "access", lambda *_: False)
    with refused("unreadable-file", folder):
        find_images(folder)


def test_a_single_image_raises_an_error(folder: Path) -> None:
    (folder / "good1.jpg").write_bytes(b"")
    with refused("too-few-images", "good2.png", "good1.jpg: an empty file"):
        find_images(folder)


def test_a_folder_without_readable_images_raises_an_error(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text("not an image")
    with refused("too-few-images", "good1.jpg: not an image", "good2.png"):
        find_images(folder)


def test_unusable_files_are_skipped_with_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intact = (folder / "good1.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(intact[:-60])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.webp").write_bytes(b"")
    save(picture(1, 1), folder / "dot.png")
    save(Image.fromarray(np.ones((HEIGHT, WIDTH), np.float32)), folder / "floating.tif")
    save(Image.fromarray(np.full((HEIGHT, WIDTH), 1 << 20, np.int32)), folder / "deep.tif")
    monkeypatch.setattr(decoding, "MAX_PIXELS", WIDTH * HEIGHT + 1)
    save(picture(WIDTH + 1, HEIGHT), folder / "vast.jpg")
    image_folder = find_images(folder)
    assert [image.name for image in image_folder.images] == ["good1.jpg", "good2.png"]
    expected = {
        "deep.tif": "more than 16 bits",
        "dot.png": "too small, 1 x 1 pixels",
        "empty.webp": "an empty file",
        "floating.tif": "floating-point values",
        "text.jpg": "not an image",
        "truncated.jpg": "truncated",
        "vast.jpg": "more than 3,073 pixels",
    }
    assert image_folder.skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in image_folder.skipped[name]


def test_heic_without_pillow_heif_is_skipped_with_the_install_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "HEIF_READABLE", False)
    (folder / "phone.heic").write_bytes(b"whatever")
    assert "pip install pillow-heif" in find_images(folder).skipped["phone.heic"]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_never_stop_the_search(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(["jpg", "png", "webp", "tiff"]))
    content = bytearray(save(picture(), folder.parent / f"whole.{suffix}", exif=exif(6)).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = folder / f"damaged.{suffix}"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    image_folder = find_images(folder)
    listed = {image.name for image in image_folder.images} | image_folder.skipped.keys()
    assert listed == {"good1.jpg", "good2.png", damaged.name}
    damaged.unlink()


UNREADABLE_FOLDERS = """
import json, os, sys
from pathlib import Path
from nope_splat.io.images import find_images
os.chdir(sys.argv[1])
os.setuid(65534)
folder = find_images(Path("."))
print(json.dumps([[image.name for image in folder.images], folder.skipped]))
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become nobody")
def test_folders_without_permission_are_skipped_with_a_reason(folder: Path) -> None:
    for name in ("closed/a.jpg", "open/closed too/a.jpg", "listed/a.jpg"):
        save(picture(), folder / name)
    for name, mode in {"closed": 0, "open/closed too": 0, "listed": 0o444}.items():
        (folder / name).chmod(mode)
    folder.chmod(0o755)
    command = [sys.executable, "-c", UNREADABLE_FOLDERS, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, skipped = json.loads(output.splitlines()[-1])
    assert found == ["good1.jpg", "good2.png"]
    assert skipped == {
        "closed": "folder cannot be read (Permission denied)",
        "open/closed too": "folder cannot be read (Permission denied)",
        "listed/a.jpg": "cannot be read (Permission denied)",
    }


def test_an_unreadable_mask_folder_raises_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "masks").mkdir()
    monkeypatch.setattr(images.os, "access", lambda path, _: path != folder / "masks")
    with refused("unreadable-file", folder / "masks"):
        find_images(folder)


# --- Reading images ---

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


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


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


def test_an_image_that_was_deleted_raises_an_error(folder: Path) -> None:
    image = find_images(folder).images[0]
    image.path.unlink()
    with refused("unreadable-image", image.path):
        read_image(image)


# --- Masks ---


def half_mask(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Create a mask that is white in the left half and black in the right half."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mask_folder", ["photos/masks", "masks"])
@pytest.mark.parametrize("name", ["good1.png", "good1.jpg.png"])
def test_masks_are_found_in_the_image_folder_or_next_to_it(folder: Path, mask_folder: str, name: str) -> None:
    path = save(half_mask(), folder.parent / mask_folder / name)
    masked, unmasked = find_images(folder).images
    assert masked.mask_path == path
    assert unmasked.mask_path is None
    assert read_mask(unmasked) is None
    mask = read_mask(masked)
    assert mask is not None
    assert mask.dtype == np.bool_
    assert mask[:, : WIDTH // 2].all()
    assert not mask[:, WIDTH // 2 :].any()
    small = read_mask(masked, (16, 12))
    assert small is not None
    assert small.tolist() == [[True] * 8 + [False] * 8] * 12


def test_transparency_and_mask_file_are_combined(folder: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    pixels[: HEIGHT // 2, :, 3] = 0
    save(Image.fromarray(pixels), folder / "good2.png")
    mask = read_mask(find_images(folder).images[1])
    assert mask is not None
    assert mask.mean() == 0.5
    save(half_mask(), folder / "masks" / "good2.png")
    mask = read_mask(find_images(folder).images[1])
    assert mask is not None
    assert mask.mean() == 0.25
    assert mask[-1, 0]


def test_downscaled_pixels_that_are_partly_masked_are_not_used(folder: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    pixels[:, 21:] = 0  # a quarter of a pixel beyond the 20th column at a quarter of the size
    save(Image.fromarray(pixels), folder / "masks" / "good1.png")
    mask = read_mask(find_images(folder).images[0], (WIDTH // 4, HEIGHT // 4))
    assert mask is not None
    assert mask[:, :5].all()
    assert not mask[:, 5:].any()


def test_masks_of_wrong_size_and_damaged_masks_raise_an_error(folder: Path) -> None:
    path = save(half_mask(20, 20), folder / "masks" / "good1.png")
    with refused("wrong-size", path, "20 x 20", "64 x 48"):
        find_images(folder)
    path.write_text("no mask")
    with refused("unreadable-image", path):
        find_images(folder)


def test_masks_without_an_image_are_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(half_mask(), folder / "masks" / "other.png")
    find_images(folder)
    assert str(folder / "masks") in caplog.text
