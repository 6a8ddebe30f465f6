"""Initialization by known cameras: good cameras are kept, bad ones refined, missing ones registered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.synthetic import SyntheticScene, make_scene
from scipy.spatial.transform import Rotation

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.sfm import Priors, Reconstruction, SfmOptions
from nope_splat.sfm.initialization.known_cameras import KnownCameras
from nope_splat.sfm.pipeline import reconstruct_from_matches

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def write(made: SyntheticScene, folder: Path, images: range, focal: float = 1.0) -> Path:
    """Write a transforms.json of some images, with a scaled focal length."""
    width, height = made.size
    frames = [
        {
            "file_path": f"images/{made.names[image]}",
            "transform_matrix": np.round(made.T_world_camera[image] @ OPENGL_FROM_OPENCV, 7).tolist(),
        }
        for image in images
    ]
    content = {"w": width, "h": height, "fl_x": focal * made.camera.focal, "frames": frames}
    path = folder / "transforms.json"
    path.write_text(json.dumps(content))
    return path


def perturbed(made: SyntheticScene, degrees: float, share: float) -> SyntheticScene:
    """Rotate the poses, and move them by a share of the largest distance between them."""
    rng = np.random.default_rng(0)
    poses = made.T_world_camera.copy()
    centers = poses[:, :3, 3].copy()
    extent = np.linalg.norm(centers[:, None] - centers, axis=-1).max()
    axes, moves = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, len(poses), 3)))
    poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(np.radians(degrees) * axes).as_matrix()
    poses[:, :3, 3] += share * extent * moves
    return replace(made, T_world_camera=poses)


def run(made: SyntheticScene, folder: Path, path: Path) -> Reconstruction:
    none_held_out = np.zeros(len(made.names), bool)
    images = made.write_images(folder)
    known_cameras = KnownCameras.read(path, images.images, none_held_out, made.camera_groups.camera_ids)
    return reconstruct_from_matches(
        images, none_held_out, made.matches, SfmOptions(), Priors(known_cameras=known_cameras)
    )


def auc_5(made: SyntheticScene, scene: Reconstruction) -> float:
    poses = dict(zip(scene.image_names, scene.T_world_camera, strict=True))
    registered = {name: poses[name] for name in np.array(scene.image_names)[scene.registered]}
    return compare_poses(registered, made.poses_by_name()).auc_5


def test_good_cameras_are_kept(tmp_path: Path) -> None:
    made = make_scene(6, 300)
    scene = run(made, tmp_path, write(made, tmp_path, range(6)))
    assert auc_5(made, scene) > 99.99
    rotations = scene.T_world_camera[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (6, 1, 1)), atol=1e-12
    )
    assert scene.cameras[0].focal == pytest.approx(made.camera.focal, rel=1e-12)
    assert np.median(scene.reprojection_errors()) < 0.5


@pytest.mark.parametrize("focal", [0.9, 1.1])
def test_bad_cameras_are_refined(tmp_path: Path, focal: float) -> None:
    made = make_scene(8, 500)
    path = write(perturbed(made, degrees=1.0, share=0.02), tmp_path, range(8), focal)
    scene = run(made, tmp_path, path)
    assert auc_5(made, scene) > 96
    assert scene.cameras[0].focal == pytest.approx(made.camera.focal, rel=0.005)


def test_images_without_a_camera_are_registered(tmp_path: Path) -> None:
    made = make_scene(8, 400)
    scene = run(made, tmp_path, write(made, tmp_path, range(2, 6)))
    assert scene.registered.all()
    assert auc_5(made, scene) > 96


def test_cameras_without_a_photo_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make_scene(4, 50)
    path = write(made, tmp_path, range(4))
    images, none = made.write_images(tmp_path).images[:3], np.zeros(3, bool)
    known = KnownCameras.read(path, images, none, made.camera_groups.camera_ids[:3])
    assert len(known.T_world_camera) == 3
    assert "003.png" in caplog.text


def test_bad_files_are_refused(tmp_path: Path) -> None:
    made = make_scene(4, 50)
    path = write(made, tmp_path, range(4))
    images = made.write_images(tmp_path).images
    all_but_one, none, ids = np.arange(4) < 3, np.zeros(4, bool), made.camera_groups.camera_ids
    with refused("name-mismatch", path, "001.png"):
        KnownCameras.read(path, images[:1], none[:1], ids[:1])
    with refused("no-cameras", path):
        KnownCameras.read(path, images, all_but_one, ids)
    same = replace(made, T_world_camera=np.tile(np.eye(4), (4, 1, 1)))
    with refused("no-baseline", path):
        KnownCameras.read(write(same, tmp_path, range(4)), images, none, ids)
