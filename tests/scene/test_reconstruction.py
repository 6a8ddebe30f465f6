"""Reconstruction: normalization, reprojection errors and serialization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.synthetic import make_scene
from scipy.spatial.transform import Rotation

from nope_splat.geometry.similarity import Similarity
from nope_splat.scene.reconstruction import Reconstruction, normalize
from nope_splat.scene.tracks import MatchGraph, Observations


def sparse_scene(noise: float = 0.0) -> Reconstruction:
    """Create a reconstruction with its true values; image 2 is held out, image 4 is not registered."""
    synthetic = make_scene(5, 80, noise=noise)
    image_ids = np.repeat(np.arange(5), [len(ids) for ids in synthetic.points_of_keypoints])
    point_ids = np.concatenate(synthetic.points_of_keypoints)
    xy = np.concatenate([features.xy for features in synthetic.keypoints])
    order = np.lexsort((image_ids, point_ids))
    point_ids, image_ids, xy = point_ids[order], image_ids[order], xy[order]
    training, held_out = (image_ids != 2) & (image_ids != 4), image_ids == 2
    poses = synthetic.T_world_camera.copy()
    poses[4] = np.eye(4)
    return Reconstruction(
        image_names=synthetic.names,
        image_sizes=np.tile(np.array(synthetic.size), (5, 1)),
        held_out=np.arange(5) == 2,
        registered=np.arange(5) != 4,
        T_world_camera=poses,
        cameras=(synthetic.camera,),
        camera_ids=np.zeros(5, np.int64),
        points=synthetic.points,
        colors=np.random.default_rng(0).integers(0, 256, synthetic.points.shape).astype(np.uint8),
        observations=Observations(point_ids[training], image_ids[training], xy[training]),
        noise=np.linspace(0.1, 0.5, training.sum()),
        resections=Observations(point_ids[held_out], image_ids[held_out], xy[held_out]),
        failures={"004.png": "no verified matches with any other photo"},
        graph=MatchGraph(5, np.array([[0, 1], [1, 3]]), np.array([40, 30]), np.array([0, 1])),
        seconds={"matching": 1.5},
    )


def transformed(scene: Reconstruction, similarity: Similarity) -> Reconstruction:
    """Transform a reconstruction to another world frame."""
    poses = similarity.apply_to_poses(scene.T_world_camera)
    poses[~scene.registered] = np.eye(4)
    return replace(scene, T_world_camera=poses, points=similarity.apply(scene.points))


def test_normalization_gives_the_standard_frame() -> None:
    scene = normalize(sparse_scene())
    np.testing.assert_allclose(np.median(scene.points, axis=0), 0, atol=1e-12)
    assert np.median(scene.points_in_cameras(scene.observations)[:, 2]) == pytest.approx(1)
    cameras = scene.T_world_camera[scene.registered & ~scene.held_out]
    up = -cameras[:, :3, 1].mean(0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 0, 1], atol=1e-12)
    np.testing.assert_array_equal(scene.T_world_camera[4], np.eye(4))
    for pose in scene.T_world_camera:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_normalization_does_not_depend_on_the_initial_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
    similarity = Similarity(float(rng.uniform(0.1, 10)), rotation, rng.normal(size=3))
    scene = sparse_scene()
    first, second = normalize(scene), normalize(transformed(scene, similarity))
    np.testing.assert_allclose(first.points, second.points, atol=1e-9)
    np.testing.assert_allclose(first.T_world_camera, second.T_world_camera, atol=1e-9)


def test_normalization_does_not_change_reprojections() -> None:
    scene = sparse_scene(noise=0.5)
    np.testing.assert_allclose(normalize(scene).reprojection_errors(), scene.reprojection_errors(), atol=1e-9)


def test_reprojection_errors() -> None:
    scene = sparse_scene()
    np.testing.assert_allclose(scene.reprojection_errors(), 0, atol=1e-9)
    observations = replace(scene.observations, xy=scene.observations.xy + np.array([3.0, 4.0]))
    np.testing.assert_allclose(replace(scene, observations=observations).reprojection_errors(), 5)


def test_save_and_load(tmp_path: Path) -> None:
    scene = sparse_scene()
    scene.save(tmp_path / "scene.npz")
    loaded = Reconstruction.load(tmp_path / "scene.npz")
    for name in ("image_names", "cameras", "failures", "seconds"):
        assert getattr(loaded, name) == getattr(scene, name)
    before, after = scene.to_arrays(), loaded.to_arrays()
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        np.testing.assert_array_equal(after[name], array)
