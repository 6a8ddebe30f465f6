"""Folders of random files: every file is read, or skipped with a reason, and no exception is raised.

A failure prints how to reproduce its example (`@reproduce_failure`).
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from fixtures.image_files import picture, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.decoding import IMAGE_SUFFIXES
from nope_splat.io.images import find_images, read_image, read_mask


def encoded(suffix: str) -> bytes:
    """Encode a valid image."""
    buffer = io.BytesIO()
    picture().save(buffer, Image.registered_extensions()[suffix])
    return buffer.getvalue()


GOOD = {suffix: encoded(suffix) for suffix in (".jpg", ".png", ".webp", ".tif")}


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Generate random bytes, or an image that is truncated, has changed bytes, or has random EXIF data."""
    kind = draw(st.sampled_from(["random", "truncated", "changed", "EXIF"]))
    if kind == "random":
        return draw(st.binary(max_size=100))
    content = bytearray(draw(st.sampled_from(list(GOOD.values()))))
    if kind == "truncated":
        return bytes(content[: draw(st.integers(0, len(content)))])
    if kind == "changed":
        for index in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[index] = draw(st.integers(0, 255))
        return bytes(content)
    garbage = b"Exif\0\0" + draw(st.sampled_from([b"", b"II*\0", b"MM\0*"])) + draw(st.binary(max_size=60))
    segment = b"\xff\xe1" + (len(garbage) + 2).to_bytes(2, "big") + garbage
    return GOOD[".jpg"][:2] + segment + GOOD[".jpg"][2:]


letters = st.text("aZ9 .-_%#'\"[]\\$*\n\t\u202e\u0301ß漢😀\udce9", min_size=1, max_size=12)
folders = st.lists(letters.filter(lambda name: name not in (".", "..")), max_size=2).map("/".join)
suffixes = st.sampled_from(sorted(IMAGE_SUFFIXES)).flatmap(
    lambda suffix: st.sampled_from([suffix, suffix.upper()])
)
names = st.tuples(folders, letters, suffixes).map(lambda parts: os.path.join(parts[0], parts[1] + parts[2]))


@given(files=st.dictionaries(names, contents(), min_size=1, max_size=3))
@settings(max_examples=80, deadline=None, print_blob=True)
def test_any_file_is_read_or_skipped_with_a_reason(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for good in ("good 1.jpg", "good 2.png"):
            save(picture(), root / good)
        written = 2
        for name, content in files.items():
            path = root / name
            if path.exists() or any(parent.is_file() for parent in path.parents):
                continue  # case-insensitive file system
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written += not any(part.startswith(".") for part in Path(name).parts)
        folder = find_images(root)
        assert len(folder.images) + len(folder.skipped) == written
        for name, reason in folder.skipped.items():
            assert name.isprintable() or "\u202e" in name
            assert reason
            assert "\n" not in reason
        for image in folder.images:
            colors = read_image(image)
            assert colors.shape[:2] == (image.height, image.width)
            assert colors.dtype == np.uint8
            mask = read_mask(image)
            assert mask is None or mask.shape == (image.height, image.width)


@given(content=contents())
@settings(max_examples=40, deadline=None, print_blob=True)
def test_any_mask_is_read_or_raises_an_error_with_its_name(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for good in ("good 1.jpg", "good 2.png"):
            save(picture(), root / good)
        mask = root / "masks" / "good 1.png"
        mask.parent.mkdir()
        mask.write_bytes(content)
        try:
            fine = read_mask(find_images(root).images[0]) is not None
        except NopeSplatError as error:
            fine = str(mask) in str(error) and "\n" not in str(error)
        assert fine
