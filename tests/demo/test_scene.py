"""The demo scene.

- The images agree with the ground-truth cameras: axes, pixel convention and focal length.
- Every image has texture; the file names do not follow the trajectory.
- Perspective and fisheye lenses show the scene where OpenCV shows it, and panoramas where COLMAP does.
- Fisheye lenses show a circle of 190 degrees; impossible lenses are refused.
- Equal seeds give equal images, different seeds different ones.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

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


def rendered(folder: Path, **options: Any) -> np.ndarray:
    """Render one small image with options of the scene."""
    images = render_demo_scene(folder, DemoSceneConfig(num_images=1, supersampling=3, **options))
    return np.asarray(Image.open(images / "photo_000.jpg")).astype(np.float32)


def assert_resampled(bent: np.ndarray, straight: np.ndarray, xy: np.ndarray) -> None:
    """Assert that an image shows at the pixels `xy` (H, W, 2) what another image shows at its own pixels."""
    columns, rows = np.moveaxis(xy.astype(np.float32) - 0.5, -1, 0)
    resampled = cv2.remap(bent, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inside = ((xy > 2) & (xy < np.array(bent.shape[1::-1]) - 2)).all(-1)
    assert inside.mean() > 0.3
    moved, unmoved = (np.abs(image - straight)[inside].mean() for image in (resampled, bent))
    assert moved < 0.4 * unmoved


@pytest.mark.parametrize("projection", ["perspective", "fisheye"])
def test_lenses_match_opencv(tmp_path: Path, projection: str) -> None:
    is_fisheye, size = projection == "fisheye", (160, 120)
    terms = (0.05, -0.02, 0.003, -1e-3, 0.0, 0.0) if is_fisheye else (-0.15, 0.05, 0.0, 0.0, 0.01, -0.02)
    straight = rendered(tmp_path / "straight", size=size)
    bent = rendered(tmp_path / "bent", size=size, projection=projection, distortion=terms)
    camera = read_named_cameras(tmp_path / "bent" / "ground_truth.json")["photo_000.jpg"]
    assert (camera.distortion, camera.is_fisheye, camera.offset) == (terms, is_fisheye, (0.0, 0.0))
    focal = 160 / 2 / np.tan(np.deg2rad(27.0))
    plane = (np.stack(np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5), -1) - [80.0, 60.0]) / focal
    K = np.array([[160 * camera.focal, 0, 80.0], [0, 160 * camera.focal, 60.0], [0, 0, 1]])
    if is_fisheye:
        xy = cv2.fisheye.distortPoints(plane.reshape(1, -1, 2), K, np.array(terms[:4]))
    else:
        points = np.concatenate([plane, np.ones((*plane.shape[:2], 1))], -1).reshape(-1, 3)
        k1, k2, _, _, p1, p2 = terms
        xy, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array([k1, k2, p1, p2]))
    assert_resampled(bent, straight, xy.reshape(120, 160, 2))


def test_panoramas_match_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    straight = rendered(tmp_path / "straight", size=(160, 120), field_of_view=90.0)
    sphere = rendered(tmp_path / "sphere", size=(512, 256), projection="equirectangular")
    truth = json.loads((tmp_path / "sphere" / "ground_truth.json").read_text())
    assert (truth["camera_model"], truth["w"], truth["h"]) == ("EQUIRECTANGULAR", 512, 256)
    camera = pycolmap.Camera(model="EQUIRECTANGULAR", width=512, height=256, params=[512, 256])
    plane = (np.stack(np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5), -1) - [80.0, 60.0]) / 80.0
    rays = np.concatenate([plane, np.ones((120, 160, 1))], -1)
    xy = np.array(camera.img_from_cam(rays.reshape(-1, 3))).reshape(120, 160, 2) - 0.5
    columns, rows = np.moveaxis(xy.astype(np.float32), -1, 0)
    resampled = cv2.remap(sphere, columns, rows, cv2.INTER_CUBIC)
    assert np.abs(cv2.GaussianBlur(straight, (0, 0), 2) - cv2.GaussianBlur(resampled, (0, 0), 2)).mean() < 4


def test_a_fisheye_lens_shows_a_circle_of_190_degrees(tmp_path: Path) -> None:
    image = rendered(tmp_path, size=(96, 96), projection="fisheye", field_of_view=190.0).max(-1)
    columns, rows = np.meshgrid(np.arange(96) - 47.5, np.arange(96) - 47.5)
    radius = np.hypot(columns, rows)
    assert image[radius < 46].min() > 20
    assert image[radius > 52].max() < 20


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"field_of_view": 179.0}, "179"),
        ({"projection": "fisheye", "field_of_view": 191.0}, "191"),
        ({"projection": "fisheye", "field_of_view": 180.0, "distortion": (-0.3, 0, 0, 0, 0, 0)}, "-0.3"),
        ({"projection": "equirectangular", "size": (64, 48)}, "64 x 48"),
    ],
)
def test_impossible_lenses_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with refused("invalid-option", reason):
        render_demo_scene(tmp_path, DemoSceneConfig(num_images=1, **options))


def test_unwritable_folder_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with refused("unwritable-output", tmp_path / "file"):
        render_demo_scene(tmp_path / "file", DemoSceneConfig(1, (32, 32)))


def test_without_a_ray_caster_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scene, "find_spec", lambda name: None)
    with refused("missing-package", "pip install 'nope-splat[demo]'"):
        render_demo_scene(tmp_path, DemoSceneConfig(1, (32, 32)))
    assert not list(tmp_path.iterdir())
