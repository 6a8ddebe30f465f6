"""Radial distortion: its inverse, and undistorted images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort, undistort
from nope_splat.io.images import ImageFile
from nope_splat.io.undistortion import read_undistorted_image, read_undistorted_mask

SIZE = (160, 120)
BARREL = Camera(130.0, (4.0, -3.0), (-0.12, 0.03, 0.0, 0.0, 0.0, 0.0))
PINCUSHION = Camera(130.0, (4.0, -3.0), (0.12, 0.0, 0.0, 0.0, 0.0, 0.0))


@given(st.floats(-0.15, 0.3), st.floats(-0.03, 0.1), st.integers(0, 99))
def test_undistort_is_the_inverse_of_distort(k1: float, k2: float, seed: int) -> None:
    plane = np.random.default_rng(seed).uniform(-0.7, 0.7, (20, 2))
    terms = (k1, k2, 0.0, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(undistort(distort(plane, terms), terms), plane, atol=1e-9)


@pytest.mark.parametrize("camera", [BARREL, PINCUSHION])
def test_unprojection_is_the_inverse_of_projection(camera: Camera) -> None:
    points = np.random.default_rng(0).uniform([-0.6, -0.4, 1.0], [0.6, 0.4, 1.0], (50, 3))
    sizes = np.array(SIZE)
    distorted = camera.project(points, sizes)
    np.testing.assert_allclose(camera.unproject(distorted, sizes), points, atol=1e-12)
    undistorted = Camera(camera.focal, camera.offset).project(points, sizes)
    max_shift = np.linalg.norm(distorted - undistorted, axis=1).max()
    assert 0 < max_shift <= camera.largest_distortion(sizes) * 1.01


def pattern(camera: Camera, folder: Path) -> ImageFile:
    """Save an image of a smooth pattern, taken by the camera."""
    pixels = np.stack(np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5), axis=-1)
    rays = camera.unproject(pixels, np.array(SIZE))
    gray = 127 + 60 * np.sin(12 * rays[..., 0]) + 60 * np.cos(10 * rays[..., 1])
    path = folder / "photo.png"
    Image.fromarray(np.repeat(np.rint(gray)[..., None], 3, axis=2).astype(np.uint8)).save(path)
    return ImageFile(path, path.name, *SIZE)


@pytest.mark.parametrize("camera", [BARREL, PINCUSHION])
def test_an_undistorted_image_equals_that_of_a_pinhole(camera: Camera, tmp_path: Path) -> None:
    (tmp_path / "pinhole").mkdir()
    pinhole = Camera(camera.focal, camera.offset)
    expected = read_undistorted_image(pattern(pinhole, tmp_path / "pinhole"), SIZE, pinhole)
    image = pattern(camera, tmp_path)
    mask = read_undistorted_mask(image, SIZE, camera)
    difference = np.abs(read_undistorted_image(image, SIZE, camera).astype(int) - expected)
    if camera is BARREL:  # its field of view is larger than that of the pinhole, so no pixel is missing
        assert mask is None
        mask = np.ones(SIZE[::-1], bool)
    assert mask is not None
    assert 0.9 < mask.mean() <= 1
    assert difference[mask].max() <= 8
    assert mask.all() == (camera is BARREL)
