"""Distortion: its inverse, and images resampled to another camera.

Undistorted images agree with those of an ideal camera and with OpenCV, also those of fisheye lenses.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort, undistort
from nope_splat.io.images import ImageFile, read_image
from nope_splat.io.undistortion import read_undistorted_image, read_undistorted_mask, without_distortion

SIZE = (160, 120)
BARREL = Camera(130.0, (4.0, -3.0), (-0.12, 0.03, 0.0, 0.0, 0.0, 0.0))
TANGENTIAL = Camera(130.0, (4.0, -3.0), (-0.1, 0.03, 0.0, 0.0, 0.01, -0.008))
FISHEYE = Camera(80.0, (4.0, -3.0), (-0.03, 0.01, -0.004, 0.001, 0.0, 0.0), is_fisheye=True)
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


@pytest.mark.parametrize("camera", [BARREL, PINCUSHION, TANGENTIAL, FISHEYE])
def test_an_undistorted_image_equals_that_of_an_ideal_camera(camera: Camera, tmp_path: Path) -> None:
    (tmp_path / "ideal").mkdir()
    ideal = without_distortion(camera)
    expected = read_undistorted_image(pattern(ideal, tmp_path / "ideal"), SIZE, ideal)
    image = pattern(camera, tmp_path)
    mask = read_undistorted_mask(image, SIZE, camera)
    difference = np.abs(read_undistorted_image(image, SIZE, camera).astype(int) - expected)
    complete = camera is not PINCUSHION
    if complete:  # its field of view is larger than that of the ideal camera, so no pixel is missing
        assert mask is None
        mask = np.ones(SIZE[::-1], bool)
    assert mask is not None
    assert 0.9 < mask.mean() <= 1
    assert difference[mask].max() <= 8
    assert mask.all() == complete


def test_undistorted_images_agree_with_opencv(tmp_path: Path) -> None:
    image = pattern(TANGENTIAL, tmp_path)
    cx, cy = TANGENTIAL.principal_points(np.array(SIZE)) - 0.5
    K = np.array([[TANGENTIAL.focal, 0, cx], [0, TANGENTIAL.focal, cy], [0, 0, 1]])
    k1, k2, _, _, p1, p2 = TANGENTIAL.distortion
    expected = cv2.undistort(read_image(image, SIZE), K, np.array([k1, k2, p1, p2]))
    undistorted = read_undistorted_image(image, SIZE, TANGENTIAL)
    assert np.abs(undistorted.astype(int) - expected)[2:-2, 2:-2].max() <= 6


def test_pinhole_views_of_fisheye_images_agree_with_opencv(tmp_path: Path) -> None:
    """The pinhole camera of another focal length shows the central part of the image."""
    image, pinhole = pattern(FISHEYE, tmp_path), Camera(100.0, (-2.0, 1.0))
    matrices = []
    for camera in (FISHEYE, pinhole):
        cx, cy = camera.principal_points(np.array(SIZE)) - 0.5
        matrices.append(np.array([[camera.focal, 0, cx], [0, camera.focal, cy], [0, 0, 1]]))
    expected = cv2.fisheye.undistortImage(
        read_image(image, SIZE), matrices[0], np.array(FISHEYE.distortion[:4]), None, matrices[1], SIZE
    )
    undistorted = read_undistorted_image(image, SIZE, FISHEYE, pinhole)
    assert np.abs(undistorted.astype(int) - expected)[2:-2, 2:-2].max() <= 6
    assert read_undistorted_mask(image, SIZE, FISHEYE, pinhole) is None


def test_pinhole_views_mask_what_a_fisheye_image_does_not_show(tmp_path: Path) -> None:
    telephoto = Camera(400.0, is_fisheye=True)
    mask = read_undistorted_mask(pattern(telephoto, tmp_path), SIZE, telephoto, Camera(200.0))
    assert mask is not None
    row, column = np.nonzero(mask)
    assert 38 <= np.abs(column - 79.5).max() <= 40.5
    assert 28 <= np.abs(row - 59.5).max() <= 30.5


def test_rays_beside_the_camera_are_masked(tmp_path: Path) -> None:
    """The image shows directions of up to 92 degrees at the left and right border."""
    wide = Camera(50.0, is_fisheye=True)
    mask = read_undistorted_mask(pattern(wide, tmp_path), SIZE, wide)
    assert mask is not None
    row, column = np.nonzero(mask)
    radius = np.hypot(column - 79.5, row - 59.5)
    assert 75 < radius.max() < 50 * np.deg2rad(88)
    assert mask[:, 79].all()
