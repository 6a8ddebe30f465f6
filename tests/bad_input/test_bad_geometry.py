"""Test errors for degenerate images and for images of more than one rigid scene, end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image, ImageOps

from nope_splat.cli import main
from nope_splat.evaluation.compare_cameras import compare_cameras
from nope_splat.io.cameras import read_named_cameras

SIZE, FOCAL = (320, 240), 300.0


@pytest.fixture(scope="module")
def wall() -> np.ndarray:
    """Return a wall with texture at all scales, 900 x 700 pixels."""
    rng = np.random.default_rng(0)
    layers = [
        cv2.resize(
            rng.uniform(0, 255, (700 // cell, 900 // cell, 3)), (900, 700), interpolation=cv2.INTER_CUBIC
        )
        for cell in (4, 12, 40)
    ]
    return np.clip(0.4 * layers[0] + 0.35 * layers[1] + 0.25 * layers[2], 0, 255).astype(np.uint8)


def write(folder: Path, wall: np.ndarray, homographies: list[np.ndarray]) -> Path:
    """Write images of the wall; homographies map wall pixels to image pixels, both from the center."""
    folder.mkdir()
    middle, center = np.eye(3), np.eye(3)
    middle[:2, 2], center[:2, 2] = (-450, -350), np.array(SIZE) / 2
    rng = np.random.default_rng(1)
    for number, homography in enumerate(homographies):
        image = cv2.warpPerspective(wall, center @ homography @ middle, SIZE, flags=cv2.INTER_AREA)
        noisy = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.png")
    return folder


def reconstruct(images: Path, output: Path) -> dict:
    """Reconstruct, and return the report."""
    main(
        [
            "reconstruct",
            "--data",
            str(images),
            "--output-dir",
            str(output),
            "--matching.max-keypoints",
            "2000",
        ]
    )
    return json.loads((output / "report.json").read_text())


def test_turning_on_the_spot(wall: np.ndarray, tmp_path: Path) -> None:
    K = np.diag([FOCAL, FOCAL, 1.0])
    turns = [cv2.Rodrigues(np.array([0.03 * (i % 2), 0.12 * (i - 2), 0.02 * i]))[0] for i in range(5)]
    images = write(tmp_path / "images", wall, [K @ turn @ np.linalg.inv(K) for turn in turns])
    with refused("no-baseline"):
        reconstruct(images, tmp_path / "out")


def test_sliding_along_a_wall(wall: np.ndarray, tmp_path: Path) -> None:
    """The scene is reconstructed, with a notice that the focal length cannot be determined."""
    shifts = [(-90, 20), (-40, -30), (0, 0), (50, 25), (95, -10)]
    slides = [np.array([[1.0, 0, x], [0, 1.0, y], [0, 0, 1.0]]) for x, y in shifts]
    report = reconstruct(write(tmp_path / "images", wall, slides), tmp_path / "out")
    assert report["registered"] == 5
    assert report["notice"] == (
        "the photos show one flat surface frontally, so they do not determine the focal length; 277 pixels"
        " are assumed; set initial-focal if you know it, or add photos from other directions"
    )
    centers = np.array(
        [
            frame["transform_matrix"]
            for frame in sorted(
                json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"],
                key=lambda frame: frame["file_path"],
            )
        ]
    )[:, :3, 3]
    moved = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    expected = np.linalg.norm(np.diff(np.array(shifts), axis=0), axis=1)
    np.testing.assert_allclose(moved / moved[0], expected / expected[0], rtol=0.05)


def test_the_same_image_many_times(wall: np.ndarray, tmp_path: Path) -> None:
    images = write(tmp_path / "images", wall, [np.eye(3)])
    for number in range(1, 4):
        shutil.copy(images / "0.png", images / f"{number}.png")
    with refused("no-baseline"):
        reconstruct(images, tmp_path / "out")


def test_mirrored_copies_moving_objects_and_wrong_exif_data_do_no_harm(
    valley: Path, wall: np.ndarray, tmp_path: Path
) -> None:
    """A small object moves through the scene, EXIF gives a telephoto lens, some images are mirrored."""
    images = tmp_path / "images"
    images.mkdir()
    exif = Image.Exif()
    exif[0xA405] = 800  # focal length in 35 mm film
    for number, file in enumerate(sorted((valley / "images").iterdir())):
        with Image.open(file) as image:
            image.paste(Image.fromarray(wall[:30, :30]), (20 + 25 * number, 40 + 15 * (number % 3)))
            image.save(images / file.name, quality=95, exif=exif)
            if number < 3:
                ImageOps.mirror(image).save(images / f"mirrored{number}.jpg", quality=95)
    report = reconstruct(images, tmp_path / "out")
    assert report["registered"] == 9
    mirrored = [f"mirrored{number}.jpg" for number in range(3)]
    assert [notice["code"] for notice in report["notices"]] == ["moving-objects", "mirrored-images"]
    assert all(name in report["notice"] for name in mirrored)
    assert set(report["unregistered"]) == set(mirrored)
    truth = read_named_cameras(valley / "ground_truth.json")
    metrics = compare_cameras(read_named_cameras(tmp_path / "out" / "transforms.json"), truth)
    assert metrics.auc_5 > 85
    assert abs(metrics.focal_error) < 2.0
