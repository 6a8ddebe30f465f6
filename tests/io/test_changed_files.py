"""Photos that change between the search of the folder and their use end in one sentence, not in waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.errors import refused
from fixtures.image_files import picture, save

from nope_splat.errors import ErrorCode
from nope_splat.io.fingerprint import content_key, file_hash, folder_hashes
from nope_splat.io.image_export import is_portable
from nope_splat.io.images import ImageFile, find_images, read_image, read_mask

PATIENCE = 5.0
"""Seconds after which a reader of a pipe is released, so that it fails instead of waiting forever."""


@contextmanager
def released(pipe: Path) -> Iterator[None]:
    """End the pipe after a while."""
    writer = os.open(pipe, os.O_RDWR)
    timer = threading.Timer(PATIENCE, os.close, [writer])
    timer.start()
    try:
        yield
    finally:
        if not timer.finished.is_set():
            timer.cancel()
            os.close(writer)


USES: dict[str, tuple[ErrorCode, Callable[[ImageFile], object]]] = {
    "read": ("unreadable-image", read_image),
    "read smaller": ("unreadable-image", lambda image: read_image(image, (20, 15))),
    "transparency": ("unreadable-image", read_mask),
    "exported": ("unreadable-image", is_portable),
    "key": ("unreadable-file", lambda image: content_key([image], {})),
    "hash": ("unreadable-file", lambda image: file_hash(image.path)),
}


@pytest.fixture
def image(tmp_path: Path) -> ImageFile:
    """Return an image of a folder that was searched."""
    for name in ("a.jpg", "b.png"):
        save(picture(), tmp_path / name)
    return find_images(tmp_path).images[0]


@pytest.mark.parametrize("use", USES)
def test_a_photo_that_vanished(image: ImageFile, use: str) -> None:
    code, function = USES[use]
    image.path.unlink()
    with refused(code, image.path, "No such file or directory"):
        function(image)


@pytest.mark.parametrize("use", USES)
def test_a_photo_that_became_a_pipe(image: ImageFile, use: str) -> None:
    code, function = USES[use]
    image.path.unlink()
    os.mkfifo(image.path)
    with released(image.path), refused(code, image.path, "not a file"):
        function(image)


def test_hashes_of_a_folder_cover_photos_and_masks(image: ImageFile) -> None:
    folder = image.path.parent
    before = folder_hashes(folder)
    assert list(before) == ["a.jpg", "b.png"]
    save(picture(seed=1), folder / "masks" / "a.png")
    masked = folder_hashes(folder)
    assert masked["a.jpg"].startswith(before["a.jpg"])
    assert masked["a.jpg"] != before["a.jpg"]
    image.path.unlink()
    os.mkfifo(image.path)
    assert folder_hashes(folder)["a.jpg"].startswith("unreadable")
    assert folder_hashes(folder)["b.png"] == before["b.png"]
