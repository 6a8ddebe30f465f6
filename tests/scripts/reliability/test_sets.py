"""Test the image sets: names, files, true and given cameras."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nope_splat.geometry.rigid import invert
from nope_splat.io.cameras import read_ground_truth, read_named_cameras
from scripts.reliability import edits
from scripts.reliability.catalog import all_sets
from scripts.reliability.edited import mirrored, upside_down
from scripts.reliability.image_set import KNOWN_CAMERAS, TRUTH, ImageSet, Inputs, Variation, make_once
from scripts.reliability.ray_caster import PinholeView, look_at, project

SETS = {image_set.name: image_set for image_set in all_sets()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(None, tmp_path_factory.mktemp("sources"))


def made(image_set: ImageSet, folder: Path, inputs: Inputs) -> Path:
    return make_once(folder / image_set.name, lambda path: image_set.write(path, inputs))


def test_every_trap_names_its_cause_and_names_are_unique() -> None:
    assert len(SETS) == len(all_sets())
    counts = Counter(image_set.honest for image_set in SETS.values())
    assert counts[False] >= 77
    assert counts[True] >= 40
    assert all(image_set.cause_codes for image_set in SETS.values() if not image_set.honest)


def test_files_of_a_rendered_set(tmp_path: Path, inputs: Inputs) -> None:
    folder = made(SETS["size_64"], tmp_path, inputs)
    truth = read_ground_truth(folder / TRUTH)
    files = sorted((folder / "images").iterdir())
    assert [file.name for file in files] == sorted(truth.T_world_camera)
    assert {Image.open(file).size for file in files} == {(64, 48)} == {truth.size}
    before = files[0].stat().st_mtime_ns
    made(SETS["size_64"], tmp_path, inputs)
    assert files[0].stat().st_mtime_ns == before
    other = made(SETS["size_64"], tmp_path / "other", Inputs(None, inputs.sources, Variation(1)))
    first, varied = (np.asarray(Image.open(path / "images/p00.jpg"), float) for path in (folder, other))
    assert np.abs(first - varied).mean() > 5


def test_an_interrupted_set_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / "set", fail)
    assert not (make_once(tmp_path / "set", lambda folder: None) / "half").exists()


def test_right_given_cameras_are_the_true_ones(tmp_path: Path, inputs: Inputs) -> None:
    folder = made(SETS["given_right"], tmp_path, inputs)
    given, truth = read_named_cameras(folder / KNOWN_CAMERAS), read_named_cameras(folder / TRUTH)
    assert given.keys() == truth.keys()
    for name, camera in truth.items():
        np.testing.assert_allclose(given[name].T_world_camera, camera.T_world_camera, atol=1e-9)
        assert given[name].focal == pytest.approx(camera.focal)


def test_exchanged_cameras_differ_in_two_images(tmp_path: Path, inputs: Inputs) -> None:
    folder = made(SETS["given_two_photos_exchanged"], tmp_path, inputs)
    given, truth = read_named_cameras(folder / KNOWN_CAMERAS), read_named_cameras(folder / TRUTH)
    moved = [
        name for name in truth if not np.allclose(given[name].T_world_camera, truth[name].T_world_camera)
    ]
    assert len(moved) == 2
    swapped = json.loads((folder / KNOWN_CAMERAS).read_text())["frames"]
    assert [frame["file_path"] for frame in swapped] == [f"images/{name}" for name in sorted(truth)]


def test_truth_of_mirrored_and_rotated_images() -> None:
    view, pose = PinholeView(), look_at((1, -4, 2), (0.2, 0, 0.3), roll=20)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 3))
    width, height = view.size
    x, y = project(points, pose, view).T
    in_mirror = project(points * [-1, 1, 1], mirrored(pose), view)
    np.testing.assert_allclose(in_mirror, np.column_stack([width - x, y]))
    rotated = project(points, upside_down(pose, 1), view)
    np.testing.assert_allclose(rotated, np.column_stack([width - x, height - y]))
    np.testing.assert_allclose(mirrored(pose) @ invert(mirrored(pose)), np.eye(4), atol=1e-12)


def test_overlays_stand_still_and_panels_move() -> None:
    images = [np.full((60, 80, 3), gray, np.uint8) for gray in (10, 20, 30)]
    logo = edits.overlay(np.full((8, 8, 3), 200, np.uint8), (0.75, 0.5, 1, 1))
    for index, image in enumerate(images):
        covered = (logo(images, index) != image).any(axis=2)
        assert covered[30:, 60:].all()
        assert covered.sum() == 30 * 20
    panel = edits.moving_panel(0.25)
    columns = [np.flatnonzero((panel(images, i) != images[i]).any(axis=(0, 2))).min() for i in range(3)]
    assert columns[0] < columns[1] < columns[2]
