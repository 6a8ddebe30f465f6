"""Exported files, read back by the tools that they are made for.

- COLMAP model: pycolmap reads the same cameras, poses, points, tracks and reprojection errors, from binary
  and from text files.
- transforms.json: nerfstudio's parser reads the same poses and intrinsics, also with mixed portrait and
  landscape images. Held-out images stay held out.
- nerfstudio's COLMAP parser reads the same cameras and points. Splatfacto trains from either format.
- report.json contains the statistics of the reconstruction.
- Write errors raise a `NopeSplatError`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.disk import full_after
from fixtures.errors import refused
from fixtures.sparse_scene import image_folder, make_scene
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.models import splatfacto

from nope_splat.io.export import write_colmap, write_report, write_transforms
from nope_splat.io.image_export import export_images
from nope_splat.scene.tracks import Observations
from scripts.benchmark.splatfacto_peer import PeerModelConfig, run_anywhere


@pytest.mark.parametrize("text", [False, True])
def test_pycolmap_reads_the_model(tmp_path: Path, text: bool):
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene()
    if text:  # readers of the text format end a name at its first space
        scene = replace(scene, image_names=tuple(name.replace(" ", "_") for name in scene.image_names))
    write_colmap(scene, tmp_path / "sparse" / "0", text)
    model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")

    assert model.num_reg_images() == 6
    assert model.num_cameras() == 2
    assert model.num_points3D() == len(scene.points)
    assert model.compute_num_observations() == len(scene.observations) + len(scene.resections)
    names = {image.name: image for image in model.images.values()}
    for image_id in np.flatnonzero(scene.registered):
        image = names[scene.image_names[image_id]]
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == tuple(scene.image_sizes[image_id])
        assert camera.model.name == "SIMPLE_PINHOLE"
        expected = [scene.cameras[0].focal, *scene.cameras[0].principal_points(scene.image_sizes[image_id])]
        np.testing.assert_allclose(camera.params, expected)
        T_world_camera = image.cam_from_world().inverse().matrix()
        np.testing.assert_allclose(T_world_camera, scene.T_world_camera[image_id, :3], atol=1e-12)
    for number, point in model.points3D.items():
        np.testing.assert_array_equal(point.xyz, scene.points[number - 1])
        np.testing.assert_array_equal(point.color, scene.colors[number - 1])


def test_pycolmap_computes_the_same_reprojection_errors(tmp_path: Path):
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene()
    write_colmap(scene, tmp_path)
    model = pycolmap.Reconstruction(tmp_path)
    written = {number: point.error for number, point in model.points3D.items()}
    model.update_point_3d_errors()
    assert len(written) == len(scene.points)
    for number, point in model.points3D.items():
        assert point.error == pytest.approx(written[number], rel=1e-9)

    empty = Observations(*(array[:0] for array in vars(scene.resections).values()))
    write_colmap(replace(scene, resections=empty), tmp_path)
    model = pycolmap.Reconstruction(tmp_path)
    model.update_point_3d_errors()
    error_sum = sum(point.error * point.track.length() for point in model.points3D.values())
    assert error_sum == pytest.approx(scene.reprojection_errors().sum(), rel=1e-9)


@pytest.mark.parametrize("portrait", [False, True])
def test_nerfstudio_reads_transforms(tmp_path: Path, portrait: bool):
    scene = make_scene(portrait)
    image_folder(scene, tmp_path / "images")
    write_transforms(scene, tmp_path / "images", tmp_path / "transforms.json")

    config = NerfstudioDataParserConfig(
        data=tmp_path,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
        load_3D_points=True,
    )
    for split in ("train", "test"):
        outputs = config.setup().get_dataparser_outputs(split)
        images = np.flatnonzero(scene.registered & (scene.held_out == (split == "test")))
        assert [file.relative_to(tmp_path / "images").as_posix() for file in outputs.image_filenames] == [
            scene.image_names[image] for image in images
        ]
        cameras = outputs.cameras
        flipped = scene.T_world_camera[images] @ np.diag([1.0, -1.0, -1.0, 1.0])
        np.testing.assert_allclose(cameras.camera_to_worlds, flipped[:, :3], atol=1e-5)
        np.testing.assert_array_equal(cameras.width[:, 0], scene.image_sizes[images, 0])
        np.testing.assert_array_equal(cameras.height[:, 0], scene.image_sizes[images, 1])
        np.testing.assert_allclose(cameras.fx, 611.0)
        np.testing.assert_allclose(cameras.fy, 611.0)
        principal = scene.cameras[0].principal_points(scene.image_sizes[images])
        np.testing.assert_allclose(np.concatenate([cameras.cx, cameras.cy], axis=1), principal)
        np.testing.assert_allclose(outputs.metadata["points3D_xyz"], scene.points, atol=1e-5)
        np.testing.assert_array_equal(outputs.metadata["points3D_rgb"], scene.colors)


def test_nerfstudio_reads_colmap(tmp_path: Path):
    scene = make_scene(portrait=False)
    image_folder(scene, tmp_path / "images")
    write_colmap(scene, tmp_path / "sparse" / "0")
    outputs = ColmapDataParserConfig(
        data=tmp_path,
        colmap_path=Path("sparse/0"),
        eval_mode="all",
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        assume_colmap_world_coordinate_convention=False,
        downscale_factor=1,
        max_2D_matches_per_3D_point=-1,
    ).setup().get_dataparser_outputs("train")  # fmt: skip
    registered = np.flatnonzero(scene.registered)
    flipped = scene.T_world_camera[registered] @ np.diag([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(outputs.cameras.camera_to_worlds, flipped[:, :3], atol=1e-5)
    np.testing.assert_allclose(outputs.cameras.fx, 611.0)
    np.testing.assert_allclose(outputs.metadata["points3D_xyz"], scene.points, atol=1e-5)
    np.testing.assert_array_equal(outputs.metadata["points3D_rgb"], scene.colors)
    counts = np.bincount(scene.observations.point_ids, minlength=len(scene.points))
    counts += np.bincount(scene.resections.point_ids, minlength=len(scene.points))
    np.testing.assert_array_equal(outputs.metadata["points3D_num_points2D"], counts)


@pytest.fixture
def splatfacto_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Splatfacto render without a GPU."""
    for owner, name in ((torch.Tensor, "cuda"), (splatfacto, "rasterization"), (splatfacto, "get_viewmat")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    run_anywhere()


@pytest.mark.usefixtures("splatfacto_anywhere")
@pytest.mark.parametrize("parser", ["nerfstudio", "colmap"])
def test_splatfacto_starts_from_the_export(tmp_path: Path, parser: str):
    scene = make_scene(portrait=False)
    folder = image_folder(scene, tmp_path / "images")
    output = tmp_path / "output"
    scene = export_images(scene, folder, output / "images")
    write_transforms(scene, output / "images", output / "transforms.json")
    write_colmap(scene, output / "sparse" / "0")
    dataparser = (
        NerfstudioDataParserConfig(data=output, load_3D_points=True)
        if parser == "nerfstudio"
        else ColmapDataParserConfig(data=output, colmap_path=Path("sparse/0"), downscale_factor=1)
    )
    # On a CPU, "gpu" leaves the images where they are; "cpu" would pin memory, which requires CUDA.
    config = FullImageDatamanagerConfig(data=output, dataparser=dataparser, cache_images="gpu")
    data = config.setup(device="cpu")
    camera, batch = data.next_train(0)
    assert batch["image"].shape == (480, 640, 3)
    assert camera.width == 640
    points = data.train_dataparser_outputs.metadata
    assert len(points["points3D_xyz"]) == len(scene.points)

    model = PeerModelConfig().setup(  # Splatfacto without LPIPS, whose weights would be downloaded
        scene_box=data.train_dataparser_outputs.scene_box,
        num_train_data=len(data.train_dataset),
        seed_points=(points["points3D_xyz"], points["points3D_rgb"]),
    )
    model.optimizers = {
        name: torch.optim.Adam(params) for name, params in model.get_gaussian_param_groups().items()
    }
    model.train()
    losses = model.get_loss_dict(model.get_outputs(camera), batch)
    torch.stack(list(losses.values())).sum().backward()
    has_gradient = model.means.grad.abs().sum(dim=1) > 0
    assert has_gradient.sum() > len(scene.points) / 2, "most points are visible in the image"


def test_images_outside_the_folder_have_absolute_paths(tmp_path: Path):
    scene = make_scene()
    (tmp_path / "result").mkdir()
    write_transforms(scene, tmp_path / "images", tmp_path / "result" / "transforms.json")
    frames = json.loads((tmp_path / "result" / "transforms.json").read_text())["frames"]
    assert frames[0]["file_path"] == str((tmp_path / "images").resolve() / scene.image_names[0])


def test_the_report_contains_the_statistics(tmp_path: Path):
    scene = make_scene()
    write_report(scene, tmp_path / "report.json", skipped={"broken.jpg": "truncated"})
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["images"], report["registered"]) == (7, 6)
    assert report["unregistered"] == {"sub folder/photo 2.jpg": "too few matches"}
    assert report["skipped_files"] == {"broken.jpg": "truncated"}
    assert report["held_out"] == ["sub folder/photo 4.jpg"]
    assert report["cameras"][0]["focal_px"] == 611.0
    assert report["mean_reprojection_error_px"] == pytest.approx(scene.reprojection_errors().mean())
    assert report["tracks"] == len(scene.points)
    assert report["seconds"] == scene.seconds
    assert report["seconds_total"] == 3.0


def test_an_unwritable_folder_raises_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with refused("unwritable-output", tmp_path / "file"):
        write_colmap(make_scene(), tmp_path / "file" / "sparse")


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path):
    scene = make_scene()
    write_colmap(scene, tmp_path)
    write_report(scene, tmp_path / "report.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    moved = replace(scene, T_world_camera=2 * scene.T_world_camera, seconds={})
    with full_after(100), refused("unwritable-output", tmp_path, "File too large"):
        write_colmap(moved, tmp_path)
    with full_after(100), refused("unwritable-output", tmp_path, "File too large"):
        write_report(moved, tmp_path / "report.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
