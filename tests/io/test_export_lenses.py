"""Exported lenses project as the reconstruction's cameras in the tools that read them.

- COLMAP: pycolmap projects points to the same pixels.
- nerfstudio: both of its parsers give the same viewing rays, and splatfacto undistorts fisheye photos.
- Perspective and fisheye cameras of one reconstruction are in two `transforms.json` files.
- report.json names the lens model and its coefficients.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.lenses import LENSES
from fixtures.sparse_scene import image_folder, make_scene
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.lens_names import colmap_lens_model
from nope_splat.io.cameras import read_named_cameras
from nope_splat.io.export import summarize, write_colmap, write_transforms
from nope_splat.sfm import Reconstruction

SIZE = np.array([640, 480])
TURNS = np.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]]], dtype=float)
"""Rotations by which images are made upright."""

parametrized = pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)


def scene_of(lens: Camera) -> Reconstruction:
    """Return a scene without portrait images whose images have a lens; observations are arbitrary."""
    return replace(make_scene(portrait=False), cameras=(lens,))


def rays_of(lens: Camera, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, 2) of an image and their unit rays (n, 3)."""
    xy = np.stack(np.meshgrid(*(np.linspace(0.5, side - 0.5, 9) for side in size)), -1).reshape(-1, 2)
    rays = lens.unproject(xy, size)
    return xy, rays / np.linalg.norm(rays, axis=1, keepdims=True)


@parametrized
def test_pycolmap_projects_to_the_same_pixels(tmp_path: Path, lens: Camera) -> None:
    """Also in images that were turned upright in different ways."""
    pycolmap = pytest.importorskip("pycolmap")
    scene = make_scene(portrait=False)
    turned = np.arange(len(scene.image_names)) % len(TURNS)
    sizes = np.where((turned % 2 == 1)[:, None], SIZE[::-1], SIZE)
    scene = replace(scene, cameras=(lens,), upright_from_sensor=TURNS[turned], image_sizes=sizes)
    write_colmap(scene, tmp_path)
    model = pycolmap.Reconstruction(tmp_path)
    for image_id in np.flatnonzero(scene.registered).tolist():
        camera = model.cameras[model.images[image_id + 1].camera_id]
        assert camera.model.name == colmap_lens_model(lens)[0]
        upright = scene.camera_of(image_id)
        _, rays = rays_of(upright, scene.image_sizes[image_id])
        rays = rays[rays[:, 2] > 1e-3]  # pycolmap projects only points in front of the camera
        projected = upright.project(rays, scene.image_sizes[image_id])
        np.testing.assert_allclose(np.array(camera.img_from_cam(rays)), projected, rtol=0, atol=1e-9)


@parametrized
@pytest.mark.parametrize("parser", ["transforms.json", "colmap"])
def test_nerfstudio_has_the_same_rays(tmp_path: Path, lens: Camera, parser: str) -> None:
    if parser == "colmap":  # see the next test
        lens = replace(lens, distortion=(*lens.distortion[:3], 0.0, *lens.distortion[4:]))
    scene = scene_of(lens)
    image_folder(scene, tmp_path / "images")
    write_transforms(scene, tmp_path / "images", tmp_path / "transforms.json")
    write_colmap(scene, tmp_path / "sparse" / "0")
    options = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    if parser == "colmap":
        options |= {"colmap_path": Path("sparse/0"), "assume_colmap_world_coordinate_convention": False}
        config = ColmapDataParserConfig(data=tmp_path, downscale_factor=1, eval_mode="all", **options)
    else:
        config = NerfstudioDataParserConfig(data=tmp_path, downscale_factor=1, **options)
    outputs = config.setup().get_dataparser_outputs("train")
    xy, rays = rays_of(lens, SIZE)
    for index in (0, len(outputs.image_filenames) - 1):
        name = outputs.image_filenames[index].relative_to(tmp_path / "images").as_posix()
        pose = scene.T_world_camera[scene.image_names.index(name)]
        coordinates = torch.tensor(xy[:, ::-1].copy(), dtype=torch.float32)  # row, column
        bundle = outputs.cameras.generate_rays(camera_indices=index, coords=coordinates)
        np.testing.assert_allclose(bundle.directions, rays @ pose[:3, :3].T, atol=2e-5)


def test_nerfstudio_refuses_k4_in_colmap_models(tmp_path: Path) -> None:
    """The documentation therefore recommends `transforms.json`."""
    scene = scene_of(LENSES["OPENCV_FISHEYE"])
    image_folder(scene, tmp_path / "images")
    write_colmap(scene, tmp_path / "sparse" / "0")
    config = ColmapDataParserConfig(data=tmp_path, colmap_path=Path("sparse/0"), downscale_factor=1)
    with pytest.raises(ValueError, match="K4"):
        config.setup().get_dataparser_outputs("train")


def test_splatfacto_undistorts_fisheye_photos(tmp_path: Path) -> None:
    """It shows a bright spot where a pinhole camera with its new intrinsics shows it."""
    lens = replace(LENSES["OPENCV_FISHEYE"], focal=400.0)
    scene = scene_of(lens)
    folder = image_folder(scene, tmp_path / "images")
    ray = np.array([0.3, -0.2, 1.0])
    pixels = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in SIZE)), -1)
    spot = 255 * np.exp(-((pixels - lens.project(ray, SIZE)) ** 2).sum(-1) / 50)
    for image in folder.images:
        Image.fromarray(np.repeat(spot.astype(np.uint8)[..., None], 3, -1)).save(image.path)
    write_transforms(scene, tmp_path / "images", tmp_path / "transforms.json")
    config = FullImageDatamanagerConfig(
        data=tmp_path, dataparser=NerfstudioDataParserConfig(data=tmp_path), cache_images="gpu"
    )
    camera, batch = config.setup(device="cpu").next_train(0)
    (K,) = camera.get_intrinsics_matrices().numpy()
    weights = batch["image"][..., 0].double().numpy()
    found = (pixels * weights[..., None]).sum((0, 1)) / weights.sum()
    np.testing.assert_allclose(found, (K @ ray)[:2], atol=0.7)
    assert np.abs(found - lens.project(ray, SIZE)).max() > 5


def test_perspective_and_fisheye_cameras_are_in_two_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(portrait=False)
    ids = (np.arange(7) >= 5).astype(np.int64)
    lenses = (LENSES["OPENCV"], LENSES["OPENCV_FISHEYE"])
    path, other = tmp_path / "transforms.json", tmp_path / "transforms_fisheye.json"
    with caplog.at_level(logging.INFO, "nope_splat"):
        write_transforms(replace(scene, cameras=lenses, camera_ids=ids), tmp_path / "images", path)
    assert "transforms_fisheye.json" in caplog.text
    for file, lens, count in ((path, lenses[0], 4), (other, lenses[1], 2)):
        cameras = read_named_cameras(file)
        assert len(cameras) == count
        for camera in cameras.values():
            assert (camera.distortion, camera.is_fisheye) == (lens.distortion, lens.is_fisheye)
        assert json.loads(file.read_text())["camera_model"] == colmap_lens_model(lens)[0]
    write_transforms(replace(scene, cameras=lenses, camera_ids=1 - ids), tmp_path / "images", path)
    assert len(read_named_cameras(path)) == 4
    assert next(iter(read_named_cameras(path).values())).is_fisheye
    assert not other.exists()
    assert len(read_named_cameras(tmp_path / "transforms_perspective.json")) == 2
    write_transforms(scene, tmp_path / "images", path)
    assert not list(tmp_path.glob("transforms_*.json"))


@parametrized
def test_the_report_names_the_lens_model(lens: Camera) -> None:
    (statistics,) = summarize(scene_of(lens))["cameras"]  # type: ignore[misc]
    model, distortion = colmap_lens_model(lens)
    assert (statistics["lens_model"], statistics["distortion"]) == (model, distortion)
    assert json.dumps(statistics)


def test_lenses_without_a_colmap_model_are_refused() -> None:
    with pytest.raises(ValueError, match="COLMAP"):
        colmap_lens_model(Camera(500.0, distortion=(0.0, 0.0, 0.0, 0.1, 0.0, 0.0)))
    assert colmap_lens_model(Camera(5.0, distortion=(0.0, 0.0, 0.1, 0.0, 0.0, 0.0)))[0] == "FULL_OPENCV"
    tangential = Camera(5.0, distortion=(0.0, 0.0, 0.0, 0.0, 0.1, 0.0), is_fisheye=True)
    assert colmap_lens_model(tangential)[0] == "THIN_PRISM_FISHEYE"
