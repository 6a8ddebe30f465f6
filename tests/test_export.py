"""Exported cameras and points, read back by the tools they are for.

- COLMAP model: pycolmap finds the same cameras, poses, points, tracks and reprojection errors.
- transforms.json: nerfstudio's own parser finds the same poses up to one similarity, and the same intrinsics;
  photographs of portrait and landscape shape may mix.
- report.json: the figures are those of the scene.
- What cannot be written is told in one sentence.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from nope_splat.camera import SharedPinhole
from nope_splat.errors import UserError
from nope_splat.export import write_colmap, write_report, write_transforms
from nope_splat.reconstruction import SparseScene
from nope_splat.tracks import MatchGraph, Observations


def make_scene(
    portrait: bool = True, num_photos: int = 7, num_points: int = 60, seed: int = 0
) -> SparseScene:
    """A ring of cameras around a cloud of points, with noisy observations.

    Photo 2 has no pose; photo 4 is held out and registered.
    """
    rng = np.random.default_rng(seed)
    sizes = np.tile([640, 480], (num_photos, 1))
    if portrait:
        sizes[::3] = [480, 640]
    camera = SharedPinhole(focal=611.0, offset=(3.5, -2.0))
    points = rng.uniform(-1, 1, (num_points, 3))
    registered = np.arange(num_photos) != 2
    held_out = np.arange(num_photos) == 4
    poses = np.tile(np.eye(4), (num_photos, 1, 1))
    photo_ids, point_ids, xy = [], [], []
    for photo in np.flatnonzero(registered):
        rotation = Rotation.from_euler(
            "yxz", [50 * photo, rng.uniform(-20, 20), rng.uniform(-20, 20)], degrees=True
        )
        poses[photo, :3, :3] = rotation.as_matrix()
        poses[photo, :3, 3] = rotation.apply([0.0, 0.0, -5.0])
        in_camera = rotation.inv().apply(points - poses[photo, :3, 3])
        seen = np.sort(rng.choice(num_points, num_points // 2 if photo > 1 else num_points, replace=False))
        photo_ids.append(np.full(len(seen), photo))
        point_ids.append(seen)
        size = np.broadcast_to(sizes[photo], (len(seen), 2))
        xy.append(camera.project(in_camera[seen], size) + rng.normal(0, 0.5, (len(seen), 2)))
    photo_ids, point_ids, xy = np.concatenate(photo_ids), np.concatenate(point_ids), np.concatenate(xy)
    order = np.lexsort([photo_ids, point_ids])
    photo_ids, point_ids, xy = photo_ids[order], point_ids[order], xy[order]
    late = held_out[photo_ids]
    return SparseScene(
        photo_names=tuple(f"sub folder/photo {index}.jpg" for index in range(num_photos)),
        photo_sizes=sizes,
        held_out=held_out,
        registered=registered,
        T_world_camera=poses,
        camera=camera,
        points=points,
        colors=rng.integers(0, 256, (num_points, 3)).astype(np.uint8),
        observations=Observations(point_ids[~late], photo_ids[~late], xy[~late]),
        resections=Observations(point_ids[late], photo_ids[late], xy[late]),
        failures={"sub folder/photo 2.jpg": "too few matches"},
        graph=MatchGraph(
            num_photos, np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        ),
        seconds={"matching": 2.0, "bundle adjustment": 1.0},
    )


def test_colmap_model_reads_back(tmp_path: Path):
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene()
    write_colmap(scene, tmp_path / "sparse" / "0")
    model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")

    assert model.num_reg_images() == 6
    assert model.num_cameras() == 2
    assert model.num_points3D() == len(scene.points)
    assert model.compute_num_observations() == len(scene.observations) + len(scene.resections)
    names = {image.name: image for image in model.images.values()}
    for photo in np.flatnonzero(scene.registered):
        image = names[scene.photo_names[photo]]
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == tuple(scene.photo_sizes[photo])
        assert camera.model.name == "SIMPLE_PINHOLE"
        expected = [scene.camera.focal, *scene.camera.principal_points(scene.photo_sizes[photo])]
        np.testing.assert_allclose(camera.params, expected)
        T_world_camera = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(T_world_camera, scene.T_world_camera[photo, :3], atol=1e-12)
    for number, point in model.points3D.items():
        np.testing.assert_array_equal(point.xyz, scene.points[number - 1])
        np.testing.assert_array_equal(point.color, scene.colors[number - 1])


def test_colmap_agrees_on_reprojection_errors(tmp_path: Path):
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene()
    write_colmap(scene, tmp_path)
    model = pycolmap.Reconstruction(tmp_path)
    written = {number: point.error for number, point in model.points3D.items()}
    model.update_point_3d_errors()
    assert len(written) == len(scene.points)
    for number, point in model.points3D.items():
        assert point.error == pytest.approx(written[number], rel=1e-9)

    nothing = Observations(*(array[:0] for array in vars(scene.resections).values()))
    write_colmap(replace(scene, resections=nothing), tmp_path)
    model = pycolmap.Reconstruction(tmp_path)
    model.update_point_3d_errors()
    summed = sum(point.error * point.track.length() for point in model.points3D.values())
    assert summed == pytest.approx(scene.reprojection_errors().sum(), rel=1e-9)


@pytest.mark.parametrize("portrait", [False, True])
def test_nerfstudio_reads_transforms(tmp_path: Path, portrait: bool):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    scene = make_scene(portrait)
    for name, (width, height) in zip(scene.photo_names, scene.photo_sizes, strict=True):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (int(width), int(height))).save(file)
    write_transforms(scene, tmp_path / "images", tmp_path / "transforms.json")

    outputs = NerfstudioDataParserConfig(
        data=tmp_path,
        eval_mode="all",
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
        load_3D_points=True,
    ).setup().get_dataparser_outputs("train")  # fmt: skip
    registered = np.flatnonzero(scene.registered)
    assert [file.relative_to(tmp_path / "images").as_posix() for file in outputs.image_filenames] == [
        scene.photo_names[photo] for photo in registered
    ]
    cameras = outputs.cameras
    flipped = scene.T_world_camera[registered] @ np.diag([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(cameras.camera_to_worlds, flipped[:, :3], atol=1e-5)
    np.testing.assert_array_equal(cameras.width[:, 0], scene.photo_sizes[registered, 0])
    np.testing.assert_array_equal(cameras.height[:, 0], scene.photo_sizes[registered, 1])
    np.testing.assert_allclose(cameras.fx, 611.0)
    np.testing.assert_allclose(cameras.fy, 611.0)
    principal = scene.camera.principal_points(scene.photo_sizes[registered])
    np.testing.assert_allclose(np.concatenate([cameras.cx, cameras.cy], axis=1), principal)
    np.testing.assert_allclose(outputs.metadata["points3D_xyz"], scene.points, atol=1e-5)
    np.testing.assert_array_equal(outputs.metadata["points3D_rgb"], scene.colors)


def test_photographs_elsewhere_are_named_absolutely(tmp_path: Path):
    scene = make_scene()
    (tmp_path / "result").mkdir()
    write_transforms(scene, tmp_path / "photos", tmp_path / "result" / "transforms.json")
    frames = json.loads((tmp_path / "result" / "transforms.json").read_text())["frames"]
    assert frames[0]["file_path"] == str((tmp_path / "photos").resolve() / scene.photo_names[0])


def test_report_holds_the_figures(tmp_path: Path):
    scene = make_scene()
    write_report(scene, tmp_path / "report.json", skipped={"broken.jpg": "truncated"})
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["photos"], report["registered"]) == (7, 6)
    assert report["unregistered"] == {"sub folder/photo 2.jpg": "too few matches"}
    assert report["skipped_files"] == {"broken.jpg": "truncated"}
    assert report["held_out"] == ["sub folder/photo 4.jpg"]
    assert report["focal_px"] == 611.0
    assert report["mean_reprojection_error_px"] == pytest.approx(scene.reprojection_errors().mean())
    assert report["tracks"] == len(scene.points)
    assert report["seconds"] == scene.seconds
    assert report["seconds_total"] == 3.0


def test_unwritable_folder_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        write_colmap(make_scene(), tmp_path / "file" / "sparse")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_full_disk_is_told():
    with pytest.raises(UserError, match=r"cannot write to .*No space left on device"):
        write_report(make_scene(), Path("/dev/full"))
