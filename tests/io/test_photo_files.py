"""Which files of a folder are photos, and which files are named because they are not read."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.errors import refused
from fixtures.image_files import picture, save

from nope_splat.io.decoding import IMAGE_SUFFIXES
from nope_splat.io.images import find_images
from nope_splat.io.photo_files import UNSUPPORTED_KINDS, image_root, list_photos
from nope_splat.io.video import VIDEO_SUFFIXES

FORMATS = {
    "JPEG": "jpg JPG jpeg jpe JPE jfif jfi jif mpo",
    "MPO": "mpo jpg",
    "PNG": "png apng",
    "WEBP": "webp",
    "TIFF": "tif TIFF",
    "BMP": "bmp",
    "PPM": "ppm pgm pnm",
    "JPEG2000": "jp2 j2k j2c jpf jpx",
    "AVIF": "avif",
    "HEIF": "heic heif HIF hif heics",
}


@pytest.mark.parametrize("image_format", FORMATS)
def test_photos_of_all_formats_and_endings_are_read(tmp_path: Path, image_format: str) -> None:
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif")
    expected = [f"{number}.{suffix}" for number, suffix in enumerate(FORMATS[image_format].split())]
    for name in [*expected, "more.png"]:
        options = {"save_all": True, "append_images": [picture(seed=1)]} if image_format == "MPO" else {}
        kind = "PNG" if name == "more.png" else image_format
        save(picture(), tmp_path / name, format=kind, **(options if kind == "MPO" else {}))
    folder = find_images(tmp_path)
    assert folder.skipped == {}
    assert [image.name for image in folder.images] == [*expected, "more.png"]


def test_files_that_are_not_read_are_named_once_per_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unread = ["1.NEF", "2.nef", "3.dng", "sub/film.braw", "photos.zip", "x.jxl", "360.insp", "a.psd", "b.gif"]
    for name in ("a.jpg", "b.jpg", "masks/a.jpg"):
        save(picture(), tmp_path / name)
    for name in [*unread, ".hidden.nef", "masks/film.braw", "notes.txt", "cameras.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path).skipped == {}
    messages = [text for text in caplog.messages if "not read" in text]
    assert len(messages) == 7
    assert all(str(tmp_path) in message for message in messages)
    assert "3 raw files (.dng, .nef) are not read; export them as JPEG or TIFF" in messages[0]
    assert "1 raw video (.braw) is not read" in messages[-1]


def test_the_error_without_photos_names_the_kinds(tmp_path: Path) -> None:
    for name in ("a.cr3", "b.cr3", "c.360"):
        (tmp_path / name).touch()
    with refused("too-few-images", tmp_path, "2 raw files (.cr3)", "1 360-degree video (.360)"):
        find_images(tmp_path)


def test_kinds_do_not_overlap() -> None:
    suffixes = [suffix for kind in UNSUPPORTED_KINDS for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert not set(suffixes) & (IMAGE_SUFFIXES | VIDEO_SUFFIXES)


def test_only_the_first_picture_of_a_file_is_used_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"save_all": True, "append_images": [picture(seed=3)]}
    save(picture(), tmp_path / "pages.tif", **more)
    save(picture(), tmp_path / "animated.webp", **more)
    save(picture(), tmp_path / "stereo.mpo", **more)  # the second picture is the other eye, or a preview
    save(picture(), tmp_path / "one.png")
    find_images(tmp_path)
    (message,) = [text for text in caplog.messages if "several pictures" in text]
    assert "animated.webp, pages.tif" in message
    assert "stereo" not in message


@pytest.mark.parametrize("name", ["images", "Images", "IMAGES"])
def test_the_folder_images_in_any_case(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert image_root(tmp_path).samefile(tmp_path / name)
    assert list_photos(tmp_path).photos == ()
