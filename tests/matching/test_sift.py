"""SIFT keypoints: positions, selection over the whole image, and masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nope_splat.io.images import ImageFile
from nope_splat.matching import MatchingSettings, extract_keypoints, match_pairs
from nope_splat.matching.options import SiftOptions
from nope_splat.matching.sift import raise_contrast, select_keypoints, sift_keypoints

SETTINGS = MatchingSettings()


def blobs(
    path: Path, width: int = 320, height: int = 240, count: int = 40
) -> tuple[ImageFile, NDArray[np.floating]]:
    """Save an image of round blobs, and return their centers; the center of the first pixel is (0.5, 0.5)."""
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


def offsets(xy: NDArray[np.floating], centers: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compute the offset of the nearest keypoint from each center, if it is within three pixels."""
    difference = xy - centers[:, None]
    distance = np.linalg.norm(difference, axis=-1)
    nearest = difference[np.arange(len(centers)), distance.argmin(axis=1)]
    return nearest[distance.min(axis=1) < 3]


def test_keypoints_lie_at_blob_centers(tmp_path: Path) -> None:
    image, centers = blobs(tmp_path / "blobs.png")
    keypoints = sift_keypoints(image, SETTINGS)
    errors = offsets(keypoints.xy, centers)
    assert keypoints.pixel_size == 1
    assert len(errors) >= 0.9 * len(centers)
    assert np.abs(errors).max() < 0.1
    assert np.abs(errors.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(keypoints.descriptors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("feature_size", [160, 211])
def test_keypoints_of_a_scaled_image_are_in_full_resolution_pixels(tmp_path: Path, feature_size: int) -> None:
    image, centers = blobs(tmp_path / "blobs.png", 640, 480)
    keypoints = sift_keypoints(image, replace(SETTINGS, max_feature_size=feature_size))
    errors = offsets(keypoints.xy, centers)
    assert keypoints.pixel_size == 640 / feature_size
    assert len(errors) >= 0.9 * len(centers)
    assert np.abs(errors).max() < 0.15 * keypoints.pixel_size
    assert np.abs(errors.mean(axis=0)).max() < 0.02 * keypoints.pixel_size


def test_half_of_the_keypoints_are_the_largest_and_the_others_are_spread() -> None:
    rng = np.random.default_rng(0)
    # Strong keypoints in one corner, weak ones everywhere, and a few large ones.
    num_clustered, num_weak, num_large = 900, 80, 20
    xy = rng.uniform(0, (1.0, 0.75), (num_clustered + num_weak + num_large, 2))
    xy[:num_clustered] *= 0.1
    strength = np.r_[rng.uniform(0.5, 1, num_clustered), rng.uniform(0.1, 0.2, num_weak + num_large)]
    diameter = np.r_[rng.uniform(2, 4, num_clustered + num_weak), rng.uniform(20, 30, num_large)]
    selected = select_keypoints(xy, diameter, strength, 2 * num_large + num_weak, 16)
    assert len(selected) == len(np.unique(selected)) == 2 * num_large + num_weak
    assert (np.diff(strength[selected]) <= 0).all()
    assert np.isin(np.arange(num_clustered + num_weak, len(xy)), selected).all()
    assert np.mean(np.isin(np.arange(num_clustered, num_clustered + num_weak), selected)) > 0.5
    all_keypoints = select_keypoints(xy, diameter, strength, len(xy), 16)
    np.testing.assert_array_equal(all_keypoints, np.argsort(-strength, kind="stable"))


def test_masked_pixels_have_no_keypoints(tmp_path: Path) -> None:
    image, _ = blobs(tmp_path / "blobs.png")
    unmasked = sift_keypoints(image, SETTINGS)
    mask = np.zeros((image.height, image.width), np.uint8)
    mask[:, 160:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = replace(image, mask_path=tmp_path / "mask.png")
    right = sift_keypoints(masked, SETTINGS)
    assert 0 < len(right.xy) < len(unmasked.xy)
    assert right.xy[:, 0].min() >= 160
    # Masked keypoints do not count toward the limit.
    few = sift_keypoints(masked, replace(SETTINGS, max_keypoints=10))
    assert len(few.xy) == 10
    assert few.xy[:, 0].min() >= 160


@pytest.mark.parametrize("gain", [0.15, 0.3])
def test_underexposed_photos_have_keypoints(gain: float, tmp_path: Path) -> None:
    image, centers = blobs(tmp_path / "bright.png")
    dark = tmp_path / "dark.png"
    Image.fromarray(np.rint(gain * np.asarray(Image.open(image.path))).astype(np.uint8)).save(dark)
    bright_keypoints, dark_keypoints = (
        sift_keypoints(replace(image, path=path), SETTINGS) for path in (image.path, dark)
    )
    assert len(offsets(dark_keypoints.xy, centers)) >= 0.8 * len(offsets(bright_keypoints.xy, centers))


def test_contrast_is_raised_to_a_range_and_kept_above_it() -> None:
    options, ramp = SiftOptions(), np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    np.testing.assert_array_equal(raise_contrast(ramp, options), ramp)
    np.testing.assert_array_equal(raise_contrast(ramp // 2 + 90, options), ramp // 2 + 90)
    raised = raise_contrast(ramp // 4 + 20, options)
    assert np.ptp(raised.astype(int)) == pytest.approx(options.min_gray_range, abs=4)
    flat = raise_contrast(ramp // 64, options)
    assert np.ptp(flat.astype(int)) == pytest.approx(3 * options.max_gain, abs=1)


def test_a_textureless_image_has_no_keypoints(tmp_path: Path) -> None:
    Image.new("RGB", (320, 240), "gray").save(tmp_path / "wall.png")
    wall = ImageFile(tmp_path / "wall.png", "wall.png", 320, 240)
    keypoints = extract_keypoints([wall, blobs(tmp_path / "blobs.png")[0]], SETTINGS)
    assert keypoints[0].xy.shape == (0, 2)
    assert keypoints[0].descriptors.shape == (0, 128)
    assert match_pairs(keypoints, [(0, 1)], SETTINGS) == []
