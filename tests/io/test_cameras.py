"""Cameras from files: one scene gives the same metrics in every format.

- Any COLMAP model is read back exactly, in both encodings; a damaged model raises an error.
- `nope-splat compare-cameras` finds no difference between formats, world frames and resolutions of one scene.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.lenses import LENSES
from fixtures.sparse_scene import make_scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nope_splat.cli import main
from nope_splat.evaluation.compare_cameras import FocalError, compare_cameras, focal_errors
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.similarity import Similarity
from nope_splat.io.cameras import NamedCamera, read_named_cameras
from nope_splat.io.colmap import (
    CAMERA_MODELS,
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    read_cameras,
    write_binary,
    write_text,
)
from nope_splat.io.export import write_colmap, write_transforms
from nope_splat.sfm import Reconstruction

numbers = st.floats(-1e6, 1e6)


@st.composite
def models(draw: st.DrawFn) -> ColmapModel:
    """Generate models with random cameras and images, without points."""
    cameras = {}
    for number in draw(st.sets(st.integers(1, 1000), min_size=1, max_size=3)):
        model = draw(st.sampled_from(list(CAMERA_MODELS)))
        count = CAMERA_MODELS[model]
        params = draw(st.lists(numbers, min_size=count, max_size=count))
        size = draw(st.tuples(st.integers(1, 10**5), st.integers(1, 10**5)))
        cameras[number] = ColmapCamera(model, *size, tuple(params))
    images = {}
    for number in draw(st.sets(st.integers(1, 1000), max_size=4)):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_rotvec(draw(st.tuples(*[st.floats(-3, 3)] * 3))).as_matrix()
        pose[:3, 3] = draw(st.tuples(*[numbers] * 3))
        name = draw(st.text("abcäß/._-漢", min_size=1, max_size=20))
        num_observations = draw(st.integers(0, 3))
        images[number] = ColmapImage(
            name,
            draw(st.sampled_from(sorted(cameras))),
            pose,
            np.full((num_observations, 2), 1.5),
            np.arange(num_observations),
        )
    empty = np.zeros((0, 3))
    points = ColmapPoints(
        empty, empty.astype(np.uint8), np.zeros(0), np.zeros(1, np.int64), np.zeros((0, 2), np.int64)
    )
    return ColmapModel(cameras, images, points)


@pytest.mark.parametrize("write", [write_binary, write_text])
@given(model=models())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_colmap_model_is_read_back(write, model: ColmapModel, tmp_path: Path):
    write(model, tmp_path)
    cameras, images = read_cameras(tmp_path)
    assert cameras == model.cameras
    assert images.keys() == model.images.keys()
    for number, image in images.items():
        expected = model.images[number]
        assert (image.name, image.camera_id) == (expected.name, expected.camera_id)
        np.testing.assert_allclose(image.T_camera_world, expected.T_camera_world, rtol=0, atol=1e-12)
    for file in tmp_path.iterdir():
        file.unlink()


@pytest.mark.parametrize("text", [False, True])
def test_a_damaged_model_raises_an_error(tmp_path: Path, text: bool):
    write_colmap(make_scene(), tmp_path, text)
    file = next(tmp_path.glob("images.*"))
    file.write_bytes(file.read_bytes()[:150])
    with refused("unreadable-file", tmp_path):
        read_cameras(tmp_path)


def write_ground_truth(scene: Reconstruction, path: Path) -> None:
    frames = [
        {"file_path": scene.image_names[i], "camera_to_world_opencv": scene.T_world_camera[i].tolist()}
        for i in np.flatnonzero(scene.registered)
    ]
    focal = {"fl_x": scene.cameras[0].focal, "fl_y": scene.cameras[0].focal, "w": 640, "h": 480}
    path.write_text(json.dumps({**focal, "frames": frames}))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Save one scene in every format."""
    scene = make_scene(portrait=False)
    paths = {name: tmp_path / name for name in ("binary", "text", "transforms.json", "truth.json")}
    write_colmap(scene, paths["binary"] / "sparse" / "0")
    write_colmap(scene, paths["text"], text=True)
    write_transforms(scene, tmp_path / "images", paths["transforms.json"])
    write_ground_truth(scene, paths["truth.json"])
    return paths


def test_formats_agree(files: dict[str, Path]):
    read = {name: read_named_cameras(path) for name, path in files.items()}
    for cameras in read.values():
        metrics = compare_cameras(cameras, read["truth.json"])
        assert (metrics.num_registered, metrics.num_images) == (6, 6)
        assert metrics.auc_5 == pytest.approx(100, abs=1e-3)
        assert metrics.rra_5 == metrics.rta_5 == 100
        assert metrics.ate == pytest.approx(0, abs=1e-4)
        assert metrics.focal_error == pytest.approx(0, abs=1e-9)


def test_metrics_do_not_depend_on_world_frame_and_resolution(files: dict[str, Path]):
    cameras = read_named_cameras(files["truth.json"])
    frame = Similarity(3.0, Rotation.from_rotvec([0.3, -1, 2]).as_matrix(), np.array([5.0, 1.0, -2.0]))
    moved = {
        name: NamedCamera(frame.apply_to_poses(camera.T_world_camera), 1.02 * camera.focal)
        for name, camera in cameras.items()
    }
    metrics = compare_cameras(moved, cameras)
    assert metrics.ate == pytest.approx(0, abs=1e-9)
    assert metrics.focal_error == pytest.approx(2)


def test_focal_errors_are_computed_per_camera(files: dict[str, Path]):
    """The focal errors of the two cameras have opposite signs; in the mean, they would cancel."""
    names = sorted(read_named_cameras(files["truth.json"]))
    truth = {name: NamedCamera(np.eye(4), 1.0 if index % 2 else 0.7) for index, name in enumerate(names)}
    estimated = {
        name: replace(camera, focal=camera.focal + (0.02 if index % 2 else -0.007))
        for index, (name, camera) in enumerate(truth.items())
    }
    errors = focal_errors(estimated, truth)
    assert [error.percent for error in errors] == pytest.approx([-1.0, 2.0])
    assert [error.images for error in errors] == [tuple(names[0::2]), tuple(names[1::2])]
    assert focal_errors(truth, {names[1]: truth[names[1]]}) == (FocalError(0.0, (names[1],)),)


def test_folder_names_distinguish_images_with_equal_file_names(tmp_path: Path):
    scene = make_scene(portrait=False)
    names = tuple(f"{folder}/{number}.jpg" for number in range(4) for folder in "ab")[:7]
    scene = replace(scene, image_names=names)
    write_colmap(scene, tmp_path / "model")
    write_transforms(scene, tmp_path / "images", tmp_path / "transforms.json")
    registered = {name for name, has_pose in zip(names, scene.registered, strict=True) if has_pose}
    for file in ("model", "transforms.json"):
        assert read_named_cameras(tmp_path / file).keys() == registered


def test_the_command_prints_a_table(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    main(["compare-cameras", str(files["binary"]), str(files["truth.json"])])
    printed = capsys.readouterr().out
    assert "AUC@5" in printed
    assert "6 of 6" in printed


@pytest.mark.parametrize(
    "content",
    [
        None,
        "not json",
        '{"frames": []}',
        '{"frames": [{"file_path": "a.jpg"}]}',
        '{"w": 4, "h": 3, "fl_x": 5, "frames": [{"file_path": "a.jpg", "transform_matrix": [[1]]}]}',
    ],
)
def test_files_without_cameras_raise_an_error(files: dict[str, Path], tmp_path: Path, content: str | None):
    path = tmp_path / "cameras.json"
    if content is not None:
        path.write_text(content)
    with refused("unreadable-file", path):
        main(["compare-cameras", str(path), str(files["truth.json"])])


def test_missing_models_and_disjoint_image_names_raise_an_error(files: dict[str, Path], tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with refused("missing-file", tmp_path / "empty"):
        read_named_cameras(tmp_path / "empty")
    cameras = read_named_cameras(files["truth.json"])
    with refused("name-mismatch", min(cameras), f"other {min(cameras)}"):
        compare_cameras({f"other {name}": camera for name, camera in cameras.items()}, cameras)


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_intrinsics_are_the_same_in_every_format(tmp_path: Path, lens: Camera) -> None:
    scene = make_scene()
    scene = replace(scene, cameras=(lens,))
    write_colmap(scene, tmp_path)
    write_transforms(scene, tmp_path, tmp_path / "transforms.json")
    for path in (tmp_path, tmp_path / "transforms.json"):
        for camera in read_named_cameras(path).values():
            longer_side = scene.image_sizes.max()
            assert camera.distortion == lens.distortion
            assert camera.is_fisheye == lens.is_fisheye
            assert camera.focal * longer_side == pytest.approx(scene.cameras[0].focal)
            assert np.array(camera.offset) * longer_side == pytest.approx(scene.cameras[0].offset)


def test_every_camera_is_written(tmp_path: Path) -> None:
    """Cameras of one image size stay separate, with their own lens models."""
    scene = make_scene(portrait=False)
    perspective = tuple(lens for lens in LENSES.values() if not lens.is_fisheye)
    camera_ids = np.arange(len(scene.image_names)) % len(perspective)
    scene = replace(scene, cameras=perspective, camera_ids=camera_ids)
    write_colmap(scene, tmp_path)
    write_transforms(scene, tmp_path, tmp_path / "transforms.json")
    for path in (tmp_path, tmp_path / "transforms.json"):
        read = read_named_cameras(path)
        for image_id in np.flatnonzero(scene.registered).tolist():
            camera = read[Path(scene.image_names[image_id]).name]
            assert camera.focal * 640 == pytest.approx(scene.camera_of(image_id).focal)
            assert np.array(camera.offset) * 640 == pytest.approx(scene.camera_of(image_id).offset)
            assert camera.distortion == scene.camera_of(image_id).distortion
