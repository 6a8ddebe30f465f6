"""Random reconstructions are read back from exported files: several cameras, poses, tracks.

A failure prints how to reproduce its example (`@reproduce_failure`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.lens_names import FISHEYE_MODELS, PERSPECTIVE_MODELS, TERM_NAMES, colmap_lens_model
from nope_splat.io.cameras import read_named_cameras
from nope_splat.io.colmap import SINGLE_FOCAL_MODELS, read_cameras
from nope_splat.io.export import write_colmap, write_transforms
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.sfm import Reconstruction

LENSES = [
    ((), False),
    (PERSPECTIVE_MODELS["RADIAL"], False),
    (PERSPECTIVE_MODELS["OPENCV"], False),
    ((), True),
    (FISHEYE_MODELS["OPENCV_FISHEYE"], True),
]
"""Names of the distortion coefficients that are not zero, and whether the lens is a fisheye lens."""


@st.composite
def scenes(draw: st.DrawFn) -> Reconstruction:
    """Generate random cameras, image sizes, poses and tracks; some images are unregistered or held out."""
    num_images, num_cameras = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(32, 5000, (num_cameras, 2))
    portrait = rng.random(num_images) < 0.3
    camera_ids = rng.integers(num_cameras, size=num_images)
    image_sizes = np.where(portrait[:, None], sizes[camera_ids, ::-1], sizes[camera_ids])
    terms, is_fisheye = draw(st.sampled_from(LENSES))
    cameras = tuple(
        Camera(
            focal=float(10 ** rng.uniform(1, 5)),
            offset=(float(rng.normal(0, 20)), float(rng.normal(0, 20))),
            distortion=tuple(float(rng.normal(0, 0.1)) if name in terms else 0.0 for name in TERM_NAMES),
            is_fisheye=is_fisheye,
        )
        for _ in range(num_cameras)
    )
    registered = rng.random(num_images) < 0.8
    registered[rng.integers(num_images)] = True
    held_out = rng.random(num_images) < 0.3
    poses = np.tile(np.eye(4), (num_images, 1, 1))
    poses[:, :3, :3] = Rotation.random(num_images, rng).as_matrix()
    poses[:, :3, 3] = rng.normal(0, 10 ** rng.uniform(-2, 4), (num_images, 3))
    poses[~registered] = np.eye(4)
    num_points = draw(st.integers(1, 20))
    observed = (rng.random((num_points, num_images)) < 0.6) & registered
    point_ids, image_ids = np.nonzero(observed)
    xy = rng.random((len(point_ids), 2)) * image_sizes[image_ids]
    in_held_out = held_out[image_ids]
    empty = np.zeros(0, np.int64)
    return Reconstruction(
        image_names=tuple(f"{draw(st.sampled_from(['', 'a/', 'ß/漢/']))}{i}.jpg" for i in range(num_images)),
        image_sizes=image_sizes,
        held_out=held_out,
        registered=registered,
        T_world_camera=poses,
        cameras=cameras,
        camera_ids=camera_ids,
        points=rng.normal(0, 10, (num_points, 3)),
        colors=rng.integers(0, 256, (num_points, 3)).astype(np.uint8),
        observations=Observations(point_ids[~in_held_out], image_ids[~in_held_out], xy[~in_held_out]),
        noise=np.full(int((~in_held_out).sum()), 0.5),
        resections=Observations(point_ids[in_held_out], image_ids[in_held_out], xy[in_held_out]),
        failures={},
        graph=MatchGraph(num_images, empty.reshape(0, 2), empty, empty),
        seconds={},
    )


def assert_cameras(path: Path, scene: Reconstruction) -> None:
    """Assert that a file contains the cameras of the registered images."""
    read = {name.rpartition("/")[2]: camera for name, camera in read_named_cameras(path).items()}
    registered = np.flatnonzero(scene.registered).tolist()
    assert read.keys() == {scene.image_names[image_id].rpartition("/")[2] for image_id in registered}
    for image_id in registered:
        camera, expected = read[scene.image_names[image_id].rpartition("/")[2]], scene.camera_of(image_id)
        longer, pose = scene.image_sizes[image_id].max(), scene.T_world_camera[image_id]
        size = 1 + np.abs(pose[:3, 3]).max()
        np.testing.assert_allclose(camera.T_world_camera, pose, rtol=0, atol=1e-11 * size)
        assert camera.focal * longer == pytest.approx(expected.focal, rel=1e-12)
        np.testing.assert_allclose(np.array(camera.offset) * longer, expected.offset, atol=1e-9)
        np.testing.assert_allclose(camera.distortion, expected.distortion, rtol=1e-12)
        assert camera.is_fisheye == expected.is_fisheye


@given(scene=scenes())
@settings(max_examples=30, deadline=None, print_blob=True)
def test_transforms_are_read_back(scene: Reconstruction) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "transforms.json"
        write_transforms(scene, Path(temporary) / "images", path)
        assert_cameras(path, scene)


@pytest.mark.parametrize("text", [False, True])
@given(scene=scenes())
@settings(max_examples=25, deadline=None, print_blob=True)
def test_colmap_models_are_read_back(text: bool, scene: Reconstruction) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_colmap(scene, folder, text)
        assert_cameras(folder, scene)
        assert len(read_cameras(folder)[1]) == scene.registered.sum()
        assert_pycolmap_agrees(folder, scene)


def assert_pycolmap_agrees(folder: Path, scene: Reconstruction) -> None:
    """Assert that pycolmap reads the same cameras, poses, points and tracks."""
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(folder)
    assert model.num_reg_images() == scene.registered.sum()
    for image_id in np.flatnonzero(scene.registered).tolist():
        image = model.images[image_id + 1]
        assert image.name == scene.image_names[image_id]
        pose, camera = scene.T_world_camera[image_id, :3], model.cameras[image.camera_id]
        size = 1 + np.abs(pose[:, 3]).max()
        np.testing.assert_allclose(image.cam_from_world().inverse().matrix(), pose, atol=1e-11 * size)
        assert (camera.width, camera.height) == tuple(scene.image_sizes[image_id])
        expected = scene.camera_of(image_id)
        principal = expected.principal_points(scene.image_sizes[image_id])
        name, distortion = colmap_lens_model(expected)
        assert camera.model.name == name
        focals = [expected.focal] * (1 if name in SINGLE_FOCAL_MODELS else 2)
        np.testing.assert_allclose(camera.params, [*focals, *principal, *distortion.values()], rtol=1e-12)
    expected_observations = {
        (point_id, image_id): xy
        for observations in (scene.observations, scene.resections)
        for point_id, image_id, xy in zip(
            observations.point_ids.tolist(), observations.image_ids.tolist(), observations.xy, strict=True
        )
    }
    read_observations = {}
    for point3d_id, point in model.points3D.items():
        np.testing.assert_allclose(point.xyz, scene.points[point3d_id - 1], rtol=1e-12)
        np.testing.assert_array_equal(point.color, scene.colors[point3d_id - 1])
        for element in point.track.elements:
            point2d = model.images[element.image_id].points2D[element.point2D_idx]
            assert point2d.point3D_id == point3d_id
            read_observations[point3d_id - 1, element.image_id - 1] = point2d.xy
    assert read_observations.keys() == expected_observations.keys()
    for key, xy in read_observations.items():
        np.testing.assert_allclose(xy, expected_observations[key], rtol=1e-9)
