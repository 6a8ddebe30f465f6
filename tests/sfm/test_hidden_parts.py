"""Pixels hidden by masks or transparency do not affect the reconstruction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nope_splat.io.images import find_images
from nope_splat.matching import MatchingSettings, extract_keypoints
from nope_splat.sfm import SfmOptions, reconstruct

SIZE, SIDE = (320, 240), 120


def corner(number: int) -> tuple[int, int]:
    """Return column and row of the upper left corner of the object in an image."""
    return 10 + 20 * number, 60 + 25 * (number % 3)


@pytest.fixture(params=["mask", "transparency"])
def hidden(request: pytest.FixtureRequest, valley: Path, tmp_path: Path) -> Path:
    """Write the valley with a moving textured object in front of it, which is hidden."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    distractor = Image.fromarray(np.kron(cells, np.ones((4, 4, 1), np.uint8)))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, file in enumerate(sorted((valley / "images").iterdir())):
        used = Image.new("L", SIZE, 255)
        used.paste(Image.new("L", distractor.size, 0), corner(number))
        with Image.open(file) as image:
            image.paste(distractor, corner(number))
            if request.param == "mask":
                used.save(tmp_path / "masks" / f"{file.stem}.png")
            else:
                image.putalpha(used)
            image.save(tmp_path / "images" / f"{file.stem}.png")
    return tmp_path


def on_distractor(number: int, xy: np.ndarray) -> np.ndarray:
    """Find pixels inside the object, except for half a pixel at its border. (n,)."""
    inside = xy - corner(number)
    return np.all((inside > 0.5) & (inside < SIDE - 0.5), axis=-1)


def test_hidden_pixels_have_no_keypoints_and_no_tracks(hidden: Path, valley: Path) -> None:
    folder = find_images(hidden)
    settings = MatchingSettings(max_keypoints=300)
    for number, keypoints in enumerate(extract_keypoints(folder.images, settings)):
        assert len(keypoints.xy) == 300  # hidden keypoints do not count
        assert not on_distractor(number, keypoints.xy).any()
    scene = reconstruct(folder, (), SfmOptions(MatchingSettings(max_keypoints=2000)))
    assert scene.registered.all()
    for number in range(len(folder.images)):
        assert not on_distractor(number, scene.observations.xy[scene.observations.image_ids == number]).any()
    truth = json.loads((valley / "ground_truth.json").read_text())
    assert scene.cameras[0].focal == pytest.approx(truth["fl_x"], rel=0.01)
