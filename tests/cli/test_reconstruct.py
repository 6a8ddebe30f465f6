"""Files that `nope-splat reconstruct` writes beside the cameras: images and masks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image

from nope_splat.cli import main


@pytest.fixture
def photos(valley: Path, tmp_path: Path) -> Path:
    """Return a folder with four photos, one of them with a mask."""
    folder = tmp_path / "scene" / "images"
    folder.mkdir(parents=True)
    for file in sorted((valley / "images").iterdir())[:4]:
        shutil.copy(file, folder)
    (tmp_path / "scene" / "masks").mkdir()
    first = min(folder.iterdir())
    mask = np.full(Image.open(first).size[::-1], 255, np.uint8)
    mask[:20] = 0
    Image.fromarray(mask).save(tmp_path / "scene" / "masks" / f"{first.name}.png")
    return folder


def reconstruct(data: Path, output: Path) -> list[dict]:
    """Reconstruct, and return the frames of `transforms.json`."""
    main(["reconstruct", "--data", str(data), "--output-dir", str(output)])
    return json.loads((output / "transforms.json").read_text())["frames"]


def test_images_and_masks_are_exported(photos: Path, tmp_path: Path) -> None:
    first, *_, last = sorted(photos.iterdir())
    webp = last.with_suffix(".webp")
    Image.open(last).save(webp, lossless=True)
    last.unlink()
    for _ in range(2):
        frames = reconstruct(photos, tmp_path / "out")
    files = [frame["file_path"] for frame in frames]
    assert files == [f"images/{name}" for name in (*sorted(os.listdir(photos))[:3], f"{webp.name}.png")]
    assert (tmp_path / "out" / files[0]).resolve() == first.resolve()
    assert [frame["mask_path"] for frame in frames] == [f"masks/{Path(file).name}.png" for file in files]
    used = [np.asarray(Image.open(tmp_path / "out" / frame["mask_path"])) > 0 for frame in frames]
    assert [mask.all() for mask in used] == [False, True, True, True]


def test_photos_in_the_output_folder_are_used_in_place(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = reconstruct(photos.parent, photos.parent)
    assert [frame["file_path"] for frame in frames] == [
        f"images/{name}" for name in sorted(os.listdir(photos))
    ]
    assert not any("mask_path" in frame for frame in frames)
    assert "Masks are not exported" in capsys.readouterr().err
    assert len(os.listdir(photos)) == 4

    Image.new("RGB", (64, 48)).save(photos / "new.webp")
    for output in (photos.parent, photos, photos / "out"):
        with refused("unwritable-output", "new.webp", output / "images"):
            reconstruct(photos, output)


def test_cameras_of_others_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "transforms.json").write_text("{}")
    with refused("unwritable-output", tmp_path / "out" / "transforms.json"):
        reconstruct(tmp_path / "no photos", tmp_path / "out")
