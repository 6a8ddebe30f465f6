"""Test photos of a given lens that are made from other photos, and the table of the benchmark of lenses.

- Photos that are warped to another lens and back show the original; nothing outside of it is shown.
- Photos of wide lenses have masks and the field of view asked for.
- A perfect reconstruction has no errors, and a failed one is in the table.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.lenses import LENSES
from fixtures.sparse_scene import make_scene
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.lens_names import intrinsics_json
from nope_splat.io.cameras import read_named_cameras
from nope_splat.io.export import write_colmap
from scripts.benchmark.lens_sets import LensSettings, warp, widen
from scripts.benchmark.lenses import measure

SHARP = LensSettings((-0.1, 0.03, 0.0, 0.0, 2e-3, -3e-3))
FISHEYE = LensSettings((0.02, -0.01, 0.003, 0.0, 0.0, 0.0), fisheye=True)


@pytest.fixture
def scene(valley: Path, tmp_path: Path) -> Path:
    """Copy two photos of the demo scene, with their true cameras."""
    (tmp_path / "scene" / "images").mkdir(parents=True)
    truth = json.loads((valley / "ground_truth.json").read_text())
    truth["frames"] = truth["frames"][:2]
    for frame in truth["frames"]:
        shutil.copy(valley / frame["file_path"], tmp_path / "scene" / "images")
    (tmp_path / "scene" / "ground_truth.json").write_text(json.dumps(truth))
    return tmp_path / "scene"


def photo(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "images" / "photo_000.jpg")).astype(float)


@pytest.mark.parametrize("lens", [SHARP, FISHEYE])
def test_photos_are_warped_to_a_lens_and_back(scene: Path, tmp_path: Path, lens: LensSettings) -> None:
    bent, straight = tmp_path / "bent", tmp_path / "straight"
    warp(scene, bent, lens)
    warp(bent, straight, LensSettings((0.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    camera = read_named_cameras(bent / "ground_truth.json")["photo_000.jpg"]
    assert (camera.distortion, camera.is_fisheye) == (lens.distortion, lens.fisheye)
    assert not (bent / "masks").exists()
    assert not Image.open(bent / "images" / "photo_000.jpg").getexif()
    original, again = photo(scene), photo(straight)
    height, width = again.shape[:2]
    assert width > 0.8 * original.shape[1]
    top, left = ((a - b) // 2 for a, b in zip(original.shape[:2], (height, width), strict=True))
    difference = np.abs(original[top : top + height, left : left + width] - again)
    assert difference.mean() < 6
    shifted = np.abs(original[top : top + height, left + 1 : left + 1 + width][:, :-1] - again[:, :-1])
    assert difference.mean() < 0.6 * shifted.mean()


def test_wide_photos_are_masked(scene: Path, tmp_path: Path) -> None:
    widen(scene, tmp_path / "wide", field_of_view=120.0, resolution=0.5)
    camera = read_named_cameras(tmp_path / "wide" / "ground_truth.json")["photo_000.jpg"]
    image = photo(tmp_path / "wide")
    height, width = image.shape[:2]
    assert camera.is_fisheye
    assert np.hypot(width, height) / (camera.focal * width) == pytest.approx(np.radians(120), rel=0.01)
    mask = np.asarray(Image.open(tmp_path / "wide" / "masks" / "photo_000.jpg.png"))
    assert 0.05 < (mask > 0).mean() < 0.5
    assert image[mask == 0].mean() < 2 < 40 < image[mask > 0].mean()


def write_truth(folder: Path, lens: Camera) -> None:
    """Write the registered cameras of the sparse scene as ground truth."""
    sparse = make_scene(portrait=False)
    frames = [
        {"file_path": name, "camera_to_world_opencv": pose.tolist()}
        for name, pose, registered in zip(
            sparse.image_names, sparse.T_world_camera, sparse.registered, strict=True
        )
        if registered
    ]
    truth = {**intrinsics_json(lens, (640, 480)), "frames": frames}
    folder.mkdir()
    (folder / "ground_truth.json").write_text(json.dumps(truth))


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_a_perfect_reconstruction_has_no_errors(tmp_path: Path, lens: Camera) -> None:
    def method(scene: Path, model: Path) -> None:
        sparse = make_scene(portrait=False)
        write_colmap(replace(sparse, cameras=(lens,)), model)

    write_truth(tmp_path / "scene", lens)
    row = measure(tmp_path / "scene", tmp_path / "output", method)
    assert row[:4] == ["6 of 6", "100.00", "+0.00", "0.00"]
    assert row == measure(tmp_path / "scene", tmp_path / "output", fail)  # the model is not made again


def fail(scene: Path, model: Path) -> None:
    raise NopeSplatError("no-cameras", "nothing found")


def test_a_failure_is_in_the_table(tmp_path: Path) -> None:
    write_truth(tmp_path / "scene", LENSES["OPENCV"])
    row = measure(tmp_path / "scene", tmp_path / "output", fail)
    assert (row[0], row[4]) == ("0", "no-cameras")
