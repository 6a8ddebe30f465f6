"""The demo scene.

- The images agree with the ground-truth cameras: axes, pixel convention and focal length.
- Every image has texture; the file names do not follow the trajectory.
- Radial distortion matches OpenCV.
- Equal seeds give equal images, different seeds different ones.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.errors import refused
from PIL import Image

from nope_splat.demo import scene
from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.io.cameras import read_ground_truth, read_named_cameras


def sift(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Detect keypoints (K, 2), with the first pixel center at (0.5, 0.5), and descriptors (K, 128)."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    keypoints, descriptors = cv2.SIFT.create().detectAndCompute(image, np.full_like(image, 255))
    return np.array([keypoint.pt for keypoint in keypoints]) + 0.5, descriptors


def azimuth(T_world_camera: np.ndarray) -> float:
    """Azimuth of a camera around the scene center, in radians."""
    return float(np.arctan2(T_world_camera[1, 3], T_world_camera[0, 3]))


def test_images_agree_with_the_ground_truth_cameras(valley: Path):
    """Matches of neighboring images lie on the epipolar lines of the true cameras."""
    truth = read_ground_truth(valley / "ground_truth.json")
    width, height = truth.size
    K_inverse = np.linalg.inv([[truth.focal, 0, width / 2], [0, truth.focal, height / 2], [0, 0, 1]])
    poses = sorted(truth.T_world_camera.items(), key=lambda item: azimuth(item[1]))
    features = {name: sift(valley / "images" / name) for name, _ in poses}
    assert all(len(xy) > 300 for xy, _ in features.values())

    errors = []
    for (first, T_world_first), (second, T_world_second) in pairwise(poses):
        (xy_first, descriptors_first), (xy_second, descriptors_second) = features[first], features[second]
        nearest = cv2.BFMatcher().knnMatch(descriptors_first, descriptors_second, k=2)
        matches = [best for best, second_best in nearest if best.distance < 0.75 * second_best.distance]
        assert len(matches) >= 20
        rays_first, rays_second = (
            np.column_stack([xy, np.ones(len(xy))]) @ K_inverse.T
            for xy in (xy_first[[m.queryIdx for m in matches]], xy_second[[m.trainIdx for m in matches]])
        )
        T_second_first = np.linalg.inv(T_world_second) @ T_world_first
        lines = np.cross(T_second_first[:3, 3], rays_first @ T_second_first[:3, :3].T)
        distance = np.abs(np.sum(lines * rays_second, axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
        errors.append(truth.focal * np.median(distance))
    assert max(errors) < 0.3


def test_file_names_do_not_follow_the_trajectory(valley: Path):
    poses = read_ground_truth(valley / "ground_truth.json").T_world_camera
    steps = np.diff([azimuth(poses[name]) for name in sorted(poses)])
    assert (steps > 0).any()
    assert (steps < 0).any()
    assert sorted(poses) == sorted(file.name for file in (valley / "images").iterdir())


def test_images_depend_on_the_seed_alone(tmp_path: Path):
    def image(folder: str, seed: int) -> np.ndarray:
        images = render_demo_scene(tmp_path / folder, DemoSceneConfig(1, (64, 48), seed))
        return np.asarray(Image.open(images / "photo_000.jpg")).astype(int)

    first = image("first", 3)
    assert first.shape == (48, 64, 3)
    np.testing.assert_array_equal(first, image("again", 3))
    assert np.abs(first - image("different", 4)).mean() > 5


def test_radial_distortion_matches_opencv(tmp_path: Path):
    def image_file(folder: str, radial: tuple[float, float]) -> np.ndarray:
        images = render_demo_scene(tmp_path / folder, DemoSceneConfig(1, (160, 120), radial=radial))
        return np.asarray(Image.open(images / "photo_000.jpg"))

    radial = (-0.15, 0.05)
    straight, bent = image_file("straight", (0.0, 0.0)), image_file("bent", radial)
    camera = read_named_cameras(tmp_path / "bent" / "ground_truth.json")["photo_000.jpg"]
    assert camera.radial == radial
    focal = 160 * camera.focal
    K = np.array([[focal, 0, 79.5], [0, focal, 59.5], [0, 0, 1]])  # OpenCV's first pixel center is (0, 0)
    undistorted = cv2.undistort(bent, K, np.array([*radial, 0, 0]))

    def difference(image: np.ndarray) -> float:
        return float(np.abs(image.astype(float) - straight)[2:-2, 2:-2].mean())

    assert difference(undistorted) < 0.5 * difference(bent)


def test_unwritable_folder_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with refused("unwritable-output", tmp_path / "file"):
        render_demo_scene(tmp_path / "file", DemoSceneConfig(1, (32, 32)))


def test_without_a_ray_caster_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scene, "find_spec", lambda name: None)
    with refused("missing-package", "pip install 'nope-splat[demo]'"):
        render_demo_scene(tmp_path, DemoSceneConfig(1, (32, 32)))
    assert not list(tmp_path.iterdir())
