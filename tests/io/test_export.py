"""Exported files, read back by the tools that they are made for.

- COLMAP model: pycolmap reads the same cameras, poses, points, tracks and reprojection errors, from binary
  and from text files.
- transforms.json: nerfstudio's parser reads the same poses and intrinsics, also with mixed portrait and
  landscape images. Held-out images stay held out.
- nerfstudio's COLMAP parser reads the same cameras and points. Splatfacto trains from either format.
- Images are linked or copied. Images that other tools would read differently are converted.
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
from fixtures.errors import refused
from fixtures.sparse_scene import make_scene
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.models import splatfacto
from PIL import ExifTags, Image

from nope_splat.errors import NopeSplatError
from nope_splat.io.export import (
    export_images,
    export_masks,
    exported_names,
    write_colmap,
    write_report,
    write_transforms,
)
from nope_splat.io.images import ImageFolder, find_images, read_image
from nope_splat.scene.tracks import Observations
from nope_splat.sfm import Reconstruction
from scripts.benchmark.splatfacto_peer import PeerModelConfig, run_anywhere


def image_folder(scene: Reconstruction, folder: Path) -> ImageFolder:
    """Save blank images for a scene."""
    for name, (width, height) in zip(scene.image_names, scene.image_sizes.tolist(), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(folder / name)
    return find_images(folder)


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


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_exported(tmp_path: Path, copy: bool):
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "originals")
    rotated = folder.images[0].path
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    width, height = scene.image_sizes[0].tolist()
    Image.new("RGB", (height, width)).save(rotated, exif=exif)

    for _ in range(2):  # the second export replaces the first
        exported = export_images(scene, folder, tmp_path / "images", copy)
    files = {path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.*")}
    names = [exported.image_names[image_id] for image_id in np.flatnonzero(scene.registered)]
    assert files == set(names)
    assert names[0] == "sub folder/photo 0.jpg.png"
    with Image.open(tmp_path / "images" / names[0]) as image:
        assert image.size == (width, height)
    unchanged = tmp_path / "images" / scene.image_names[1]
    assert unchanged.is_symlink() != copy
    assert unchanged.read_bytes() == folder.images[1].path.read_bytes()


def test_masks_and_transparency_are_exported(tmp_path: Path):
    """Nerfstudio requires a mask for every image, or for none."""
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "originals")
    assert not export_masks(scene, folder, tmp_path / "masks", scene.image_names)
    assert not (tmp_path / "masks").exists()

    (width, height), masked, clear = scene.image_sizes[1].tolist(), folder.images[1], folder.images[3]
    mask = np.full((height, width), 255, np.uint8)
    mask[:, :10] = 0
    (tmp_path / "originals" / "masks" / "sub folder").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "originals" / "masks" / f"{masked.name}.png")
    alpha = np.full((clear.height, clear.width, 4), 255, np.uint8)
    alpha[:20, :, 3] = 0
    Image.fromarray(alpha).save(clear.path, format="PNG")
    folder = find_images(tmp_path / "originals")
    out = tmp_path / "export"
    exported = export_images(scene, folder, out / "images")
    assert export_masks(scene, folder, out / "masks", exported.image_names)
    write_transforms(exported, out / "images", out / "transforms.json", out / "masks")

    config = NerfstudioDataParserConfig(data=out, eval_mode="all", downscale_factor=1)
    outputs = config.setup().get_dataparser_outputs("train")
    assert outputs.mask_filenames is not None
    used = {
        image.name: np.asarray(Image.open(mask)) > 0
        for image, mask in zip(outputs.image_filenames, outputs.mask_filenames, strict=True)
    }
    np.testing.assert_array_equal(used["photo 1.jpg"], mask > 0)
    np.testing.assert_array_equal(used["photo 3.jpg"], alpha[..., 3] > 0)
    assert used["photo 5.jpg"].all()
    with pytest.raises(NopeSplatError, match="contains the original masks"):
        export_masks(scene, folder, tmp_path / "originals" / "masks", exported.image_names)
    with refused("unwritable-output", tmp_path / "masks"):  # these would be masks of the next run
        export_masks(scene, folder, tmp_path / "masks", exported.image_names)
    assert not (tmp_path / "masks").exists()


def test_original_images_are_never_overwritten(tmp_path: Path):
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "images")
    with pytest.raises(NopeSplatError, match="choose another output folder"):
        export_images(scene, folder, tmp_path / "images")
    assert folder.images[0].path.is_file()


@pytest.mark.parametrize("output", ["", "export", "sub folder"])
def test_exports_into_the_photo_folder_are_refused(tmp_path: Path, output: str):
    """They would become photos of the next run, or its only photos."""
    scene = make_scene()
    folder = image_folder(scene, tmp_path / "photos")
    before = sorted(tmp_path.rglob("*"))
    with refused("unwritable-output", folder.root / output / "images"):
        export_images(scene, folder, folder.root / output / "images")
    assert sorted(tmp_path.rglob("*")) == before
    assert find_images(folder.root).root == folder.root


def test_exports_do_not_reach_photos_from_a_folder_above(tmp_path: Path):
    """Exported to the folder above, a photo `a/b.jpg` of the folder `a` has the path of the photo `b.jpg`."""
    scene = make_scene()
    scene = replace(scene, image_names=tuple(f"a/{number}.jpg" for number in range(len(scene.image_names))))
    folder = image_folder(scene, tmp_path / "a")
    with refused("unwritable-output", tmp_path, tmp_path / "a"):
        export_images(scene, folder, tmp_path)
    assert all(image.path.is_file() and not image.path.is_symlink() for image in folder.images)


def test_no_two_images_share_an_exported_file(tmp_path: Path):
    """A converted image gets a free name, also if a photo or a folder has its first choice."""
    scene = make_scene()
    names = ("a.jpg", "a.jpg.png", "b.jpg", "B.JPG.png/c.jpg", "b.jpg_1.png", "d.jpg", "e.jpg")
    folder = tmp_path / "photos"
    for number, (name, size) in enumerate(zip(names, scene.image_sizes.tolist(), strict=True)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mode, color = ("CMYK", (number,) * 4) if name in ("a.jpg", "b.jpg") else ("RGB", (30 * number,) * 3)
        Image.new(mode, tuple(size), color).save(folder / name)
    scene = replace(scene, image_names=names, registered=np.ones(7, bool))
    exported = export_images(scene, find_images(folder), tmp_path / "export")
    assert exported.image_names == ("a.jpg_1.png", names[1], "b.jpg_2.png", *names[3:])
    originals = {image.name: image for image in find_images(folder).images}
    for name, new_name in zip(names, exported.image_names, strict=True):
        with Image.open(tmp_path / "export" / new_name) as image:
            np.testing.assert_array_equal(np.asarray(image), read_image(originals[name]))


@given(
    names=st.lists(st.text("aA./", min_size=1, max_size=6).map(lambda name: f"x{name}x.png"), unique=True),
    data=st.data(),
)
def test_exported_names_are_unique(names: list[str], data: st.DataObject):
    portable = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    chosen = exported_names(names, portable)
    assert len(set(chosen)) == len(names)
    for name, is_unchanged, new_name in zip(names, portable, chosen, strict=True):
        assert new_name == name if is_unchanged else new_name.startswith(name)


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_raises_an_error():
    with pytest.raises(NopeSplatError, match=r"cannot write to .*No space left on device"):
        write_report(make_scene(), Path("/dev/full"))
