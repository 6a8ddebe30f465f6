"""Reading masks: names, levels, size and orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import HEIGHT, WIDTH, exif, picture, save
from PIL import Image

from nope_splat.io.images import find_images, read_mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save two valid images, and return their folder."""
    save(picture(seed=1), tmp_path / "photos" / "good1.jpg")
    save(picture(seed=2), tmp_path / "photos" / "good2.png")
    return tmp_path / "photos"


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


def test_masks_of_wrong_aspect_ratio_and_damaged_masks_raise_an_error(folder: Path) -> None:
    path = save(half_mask(20, 20), folder / "masks" / "good1.png")
    with refused("wrong-size", path, "20 x 20", "64 x 48"):
        find_images(folder)
    path.write_text("no mask")
    with refused("unreadable-image", path):
        find_images(folder)


def used(mask: Image.Image, folder: Path, name: str = "good1.png", **options: object) -> np.ndarray:
    """Save a mask of the first photo, and read it."""
    path = folder / "masks" / name
    save(mask, path, **options)
    read = read_mask(find_images(folder).images[0])
    path.unlink()
    assert read is not None
    return read


def gray(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_lossy_masks_are_compared_with_half_of_white(folder: Path, quality: int) -> None:
    """JPEG surrounds white areas by dark gray, which must not be used."""
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[10:37, 13:45] = True
    mask = gray(255 * expected)
    lossy = used(mask, folder, "good1.jpg", quality=quality)
    assert (lossy == expected).mean() > 0.99
    assert np.array_equal(used(mask, folder), expected)
    decoded = save(mask, folder.parent / "lossy.jpg", quality=quality)
    assert (np.asarray(Image.open(decoded)) > 0).mean() > 1.01 * expected.mean(), "not black"
    assert np.array_equal(used(Image.open(decoded), folder), lossy), "saved as PNG after JPEG"


def test_every_label_that_is_not_black_is_used(folder: Path) -> None:
    labels = np.arange(WIDTH) // 5 * np.ones((HEIGHT, 1))
    assert np.array_equal(used(gray(labels), folder), labels > 0)
    assert np.array_equal(used(gray(labels * 20), folder), labels > 0), "13 levels up to 240"
    deep = Image.fromarray((labels > 6).astype(np.uint16))
    assert np.array_equal(used(deep, folder), labels > 6), "16 bits, 0 and 1"
    colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colors[:, 30:, 2] = 64
    assert np.array_equal(used(Image.fromarray(colors), folder), colors[..., 2] > 0)


def test_soft_edges_are_cut_at_half(folder: Path) -> None:
    ramp = np.linspace(0, 255, WIDTH).round() * np.ones((HEIGHT, 1))
    assert np.array_equal(used(gray(ramp), folder), ramp > 127)
    deep = Image.fromarray((ramp * 257).astype(np.uint16))
    assert np.array_equal(used(deep, folder), ramp > 127)


def test_transparency_of_a_mask_is_the_mask(folder: Path) -> None:
    """As in photos whose background was removed."""
    cut_out = np.dstack([np.asarray(picture()), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    cut_out[:, :20, 3] = 0
    assert np.array_equal(used(Image.fromarray(cut_out), folder), cut_out[..., 3] > 0)
    opaque = np.asarray(half_mask().convert("RGBA"))
    assert np.array_equal(used(Image.fromarray(opaque), folder), opaque[..., 0] > 0), "nothing is transparent"


def test_masks_of_another_size_are_scaled_with_one_sentence(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good1.png", "good2.png"):
        save(half_mask(WIDTH // 2, HEIGHT // 2), folder / "masks" / name)
    image = find_images(folder).images[0]
    (message,) = caplog.messages[1:]
    assert "good1.png" in message
    assert "good2.png" in message
    expected = np.asarray(half_mask()) > 0
    mask, small = read_mask(image), read_mask(image, (WIDTH // 4, HEIGHT // 4))
    assert mask is not None
    assert small is not None
    assert np.array_equal(mask, expected)
    assert np.array_equal(small, expected[::4, ::4])
    with refused("wrong-size", "64 x 50"):
        used(half_mask(WIDTH, HEIGHT + 2), folder)
    assert used(half_mask(4 * WIDTH + 3, 4 * HEIGHT), folder).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_the_stored_pixels_are_rotated_like_their_photo(folder: Path, orientation: int) -> None:
    save(picture(HEIGHT, WIDTH), folder / "good1.jpg", exif=exif(orientation))
    upright = np.asarray(half_mask(WIDTH, HEIGHT)) > 0
    stored = {
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = half_mask(WIDTH, HEIGHT).transpose(stored[orientation])
    assert np.array_equal(used(turned, folder), upright), "drawn on the stored pixels"
    assert np.array_equal(used(half_mask(WIDTH, HEIGHT), folder), upright), "drawn on the upright photo"
    assert np.array_equal(used(turned, folder, exif=exif(orientation)), upright), "with its own orientation"


def test_inverted_masks(folder: Path) -> None:
    save(half_mask(), folder / "masks" / "good1.png")
    normal, inverted = (read_mask(find_images(folder, invert).images[0]) for invert in (False, True))
    assert normal is not None
    assert inverted is not None
    assert np.array_equal(inverted, ~normal)
    assert read_mask(find_images(folder, True).images[1]) is None
