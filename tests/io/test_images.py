"""Finding and checking the images of a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.image_files import HEIGHT, WIDTH, exif, picture, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nope_splat.io import decoding, images
from nope_splat.io.images import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save two valid images, and return their folder."""
    save(picture(seed=1), tmp_path / "photos" / "good1.jpg")
    save(picture(seed=2), tmp_path / "photos" / "good2.png")
    return tmp_path / "photos"


def names(data: Path) -> list[str]:
    return [image.name for image in find_images(data).images]


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
