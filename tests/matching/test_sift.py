"""Keypoints sit where the picture says, all over it, and not where a mask is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nope_splat.io.images import ImageFile
from nope_splat.matching import MatchingSettings, extract_keypoints, match_pairs
from nope_splat.matching.sift import choose_keypoints, sift_keypoints

SETTINGS = MatchingSettings()


def blobs(
    path: Path, width: int = 320, height: int = 240, count: int = 40
) -> tuple[ImageFile, NDArray[np.float64]]:
    """An image of round blobs with known centers; the center of the first pixel is (0.5, 0.5)."""
    generator = np.random.default_rng(0)
    columns, rows = 8, count // 8
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    cell = np.array([width / columns, height / rows])
    centers = (cells + 0.5) * cell + generator.uniform(-0.15, 0.15, cells.shape) * cell
    radii = generator.uniform(0.06, 0.1, len(cells)) * cell.min()
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.full((height, width), 100.0)
    for center, radius in zip(centers, radii, strict=True):
        pixels += 120 * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * radius**2))
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
    return ImageFile(path, path.name, width, height), centers


def offsets(xy: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each center to its nearest keypoint, where there is one within three pixels."""
    difference = xy - centers[:, None]
    distance = np.linalg.norm(difference, axis=-1)
    nearest = difference[np.arange(len(centers)), distance.argmin(axis=1)]
    return nearest[distance.min(axis=1) < 3]


def test_keypoints_count_pixels_from_the_corner_not_from_the_first_center(tmp_path: Path) -> None:
    image, centers = blobs(tmp_path / "blobs.png")
    keypoints = sift_keypoints(image, SETTINGS)
    found = offsets(keypoints.xy, centers)
    assert keypoints.pixel_size == 1
    assert len(found) >= 0.9 * len(centers)
    assert np.abs(found).max() < 0.1
    assert np.abs(found.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(keypoints.descriptors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("feature_size", [160, 211])
def test_keypoints_of_a_scaled_image_are_in_full_resolution_pixels(tmp_path: Path, feature_size: int) -> None:
    image, centers = blobs(tmp_path / "blobs.png", 640, 480)
    keypoints = sift_keypoints(image, replace(SETTINGS, max_feature_size=feature_size))
    found = offsets(keypoints.xy, centers)
    assert keypoints.pixel_size == 640 / feature_size
    assert len(found) >= 0.9 * len(centers)
    assert np.abs(found).max() < 0.15 * keypoints.pixel_size
    assert np.abs(found.mean(axis=0)).max() < 0.02 * keypoints.pixel_size


def test_half_of_the_keypoints_are_the_largest_and_the_others_are_spread() -> None:
    rng = np.random.default_rng(0)
    leaves, wall, windows = 900, 80, 20  # strong ones in one corner, weak ones everywhere, and large ones
    xy = rng.uniform(0, (1.0, 0.75), (leaves + wall + windows, 2))
    xy[:leaves] *= 0.1
    strength = np.r_[rng.uniform(0.5, 1, leaves), rng.uniform(0.1, 0.2, wall + windows)]
    diameter = np.r_[rng.uniform(2, 4, leaves + wall), rng.uniform(20, 30, windows)]
    chosen = choose_keypoints(xy, diameter, strength, 2 * windows + wall)
    assert len(chosen) == len(np.unique(chosen)) == 2 * windows + wall
    assert (np.diff(strength[chosen]) <= 0).all()
    assert np.isin(np.arange(leaves + wall, len(xy)), chosen).all()
    assert np.mean(np.isin(np.arange(leaves, leaves + wall), chosen)) > 0.5
    everything = choose_keypoints(xy, diameter, strength, len(xy))
    np.testing.assert_array_equal(everything, np.argsort(-strength, kind="stable"))


def test_masked_keypoints_are_not_sought(tmp_path: Path) -> None:
    image, _ = blobs(tmp_path / "blobs.png")
    everywhere = sift_keypoints(image, SETTINGS)
    mask = np.zeros((image.height, image.width), np.uint8)
    mask[:, 160:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = replace(image, mask_path=tmp_path / "mask.png")
    right = sift_keypoints(masked, SETTINGS)
    assert 0 < len(right.xy) < len(everywhere.xy)
    assert right.xy[:, 0].min() >= 160
    # What is masked takes no place among those that are kept.
    few = sift_keypoints(masked, replace(SETTINGS, max_keypoints=10))
    assert len(few.xy) == 10
    assert few.xy[:, 0].min() >= 160


def test_an_image_without_texture_has_no_keypoints(tmp_path: Path) -> None:
    Image.new("RGB", (320, 240), "gray").save(tmp_path / "wall.png")
    wall = ImageFile(tmp_path / "wall.png", "wall.png", 320, 240)
    keypoints = extract_keypoints([wall, blobs(tmp_path / "blobs.png")[0]], SETTINGS)
    assert keypoints[0].xy.shape == (0, 2)
    assert keypoints[0].descriptors.shape == (0, 128)
    assert match_pairs(keypoints, [(0, 1)], SETTINGS) == []
