"""Test the data that nerfstudio receives.

- Cameras project points to their observations, at full and reduced size, with nerfstudio's axes.
- Held-out images are not training views; `eval-mode all` and small folders hold none out.
- Observations index training views; images and masks have the size of the cameras.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.errors import refused
from fixtures.splat_scene import FOCAL, SIZE, make_pipeline, write_scene
from PIL import Image

from nope_splat.io.undistortion import read_undistorted_image
from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.plugin.datamanager import NopeDataManagerConfig, OptimizedCameras
from nope_splat.plugin.dataparser import NopeDataParserConfig
from nope_splat.plugin.dataset import NopeDataset
from nope_splat.plugin.trainer import NopeTrainerConfig
from nope_splat.scene.tracks import Observations


@pytest.mark.parametrize("max_image_size", [None, 1000, 50, 31])
def test_cameras_project_points_to_their_observations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_image_size: int | None
) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, max_image_size=max_image_size)
    dataset, parser = pipeline.datamanager.train_dataset, pipeline.datamanager.dataparser
    scene, cameras = parser.scene, dataset.cameras
    longer = int(torch.maximum(cameras.width, cameras.height).max())
    assert longer == (SIZE[0] if max_image_size is None else min(SIZE[0], max_image_size))
    for view, image_file in enumerate(parser.image_ids("train")):
        in_image = scene.observations.image_ids == image_file
        points = torch.from_numpy(scene.points[scene.observations.point_ids[in_image]]).float()
        T, K = world_to_camera(cameras.camera_to_worlds[view]), cameras.get_intrinsics_matrices()[view]
        projected = (points @ T[:3, :3].T + T[:3, 3]) @ K.T
        scale = torch.stack([cameras.width[view, 0], cameras.height[view, 0]]) / torch.tensor(SIZE)
        expected = torch.from_numpy(scene.observations.xy[in_image]).float() * scale
        torch.testing.assert_close(projected[:, :2] / projected[:, 2:], expected, rtol=0, atol=1e-3)
        image = dataset[view]["image"]
        assert image.shape == (cameras.height[view, 0], cameras.width[view, 0], 3)


def test_images_are_undistorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distorted images train like those of a pinhole camera."""
    straight = write_scene(tmp_path, num_views=9, unregistered=(), held_out=True)
    camera = replace(straight.cameras[0], distortion=(0.1, 0.02, 0.0, 0.0, 0.0, 0.0))

    def bent(observations: Observations) -> Observations:
        sizes = straight.image_sizes[observations.image_ids]
        return replace(
            observations, xy=camera.project(straight.cameras[0].unproject(observations.xy, sizes), sizes)
        )

    bent_scene = replace(
        straight,
        cameras=(camera,),
        observations=bent(straight.observations),
        resections=bent(straight.resections),
    )
    outputs = []
    for scene in (straight, bent_scene):
        monkeypatch.setattr("nope_splat.plugin.dataparser.reconstruct", lambda *_, scene=scene: scene)
        parser = NopeDataParserConfig(data=tmp_path, seeds="tracks", max_image_size=None).setup()
        outputs.append(parser.get_dataparser_outputs("train"))
    expected, undistorted = outputs
    torch.testing.assert_close(undistorted.metadata["observations"].xy, expected.metadata["observations"].xy)
    torch.testing.assert_close(undistorted.cameras.fx, expected.cameras.fx)
    data = NopeDataset(undistorted).get_data(0)
    image = undistorted.metadata["images"][0]
    assert (255 * data["image"]).round().byte().numpy().tolist() == (
        read_undistorted_image(image, SIZE, camera).tolist()
    )
    assert not data["mask"].all()  # the corners lie outside of the image
    assert "mask" not in NopeDataset(expected).get_data(0)


def test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, num_views=10, unregistered=(3, 8))
    data = pipeline.datamanager
    assert [path.name for path in data.eval_dataset.image_filenames] == ["00.png"]
    assert [path.name for path in data.train_dataset.image_filenames] == [
        f"{view:02d}.png" for view in (1, 2, 4, 5, 6, 7, 9)
    ]
    assert data.dataparser.unregistered_held_out() == ["08.png"]
    observations = data.train_dataset.metadata["observations"]
    assert set(observations.view_ids.tolist()) == set(range(7))
    assert data.train_dataset.cameras.metadata is not None
    assert data.train_dataset.cameras.metadata["image_id"][:, 0].tolist() == [1, 2, 4, 5, 6, 7, 9]


def test_train_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, num_views=4, eval_mode="all")
    assert len(pipeline.datamanager.train_dataset) == 4
    assert len(pipeline.datamanager.eval_dataset) == 0


def test_small_folders_hold_no_image_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out_names: list[list[str]] = []
    parser = make_pipeline(tmp_path, monkeypatch, num_views=8, eval_mode="all").datamanager.dataparser
    monkeypatch.setattr(
        "nope_splat.plugin.dataparser.reconstruct",
        lambda folder, held_out, *_: held_out_names.append(held_out),
    )
    parser.config.eval_mode = "interval"
    for interval in (3, 8, 9):
        parser.config.eval_interval = interval
        del parser.distorted_scene
        _ = parser.distorted_scene
    assert held_out_names == [["00.png", "03.png", "06.png"], ["00.png"], []]


def test_masks_have_the_size_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:, : SIZE[0] // 2] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "01.png")
    data = make_pipeline(tmp_path, monkeypatch, max_image_size=48).datamanager
    dataset = data.train_dataset
    assert dataset[0]["mask"].dtype == torch.bool
    assert dataset[0]["mask"].shape == (*dataset[0]["image"].shape[:2], 1)
    assert dataset[0]["mask"][:, :24].all()
    assert not dataset[0]["mask"][:, 24:].any()
    assert "mask" not in dataset[1]
    height, width = dataset[0]["image"].shape[:2]
    assert data.num_pixels_used() == height * (24 + width * (len(dataset) - 1))


def test_optimized_cameras_replace_the_reconstruction_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_pipeline(tmp_path, monkeypatch, max_image_size=48).datamanager
    poses = (data.train_dataset.cameras.camera_to_worlds + 1, data.eval_dataset.cameras.camera_to_worlds + 2)
    for _ in range(2):
        data.set_cameras(OptimizedCameras(*poses, focals=torch.tensor([1.1 * FOCAL])))
    torch.testing.assert_close(data.train_dataset.cameras.camera_to_worlds, poses[0])
    torch.testing.assert_close(data.eval_dataset.cameras.camera_to_worlds, poses[1])
    torch.testing.assert_close(data.eval_dataset.cameras.fx, torch.full((2, 1), 0.55 * FOCAL))


def test_missing_data_raises() -> None:
    with refused("missing-option", "--data"):
        NopeDataManagerConfig().setup(device="cpu", test_mode="val")


def test_no_output_folder_is_created_without_images(tmp_path: Path) -> None:
    config = NopeTrainerConfig(method_name="nope-splat", output_dir=tmp_path / "outputs")
    config.machine.device_type = "cpu"
    config.pipeline.datamanager.data = tmp_path / "nowhere"
    with refused("missing-file", tmp_path / "nowhere"):
        config.save_config()
    config.pipeline.datamanager.data = None
    with refused("missing-option", "--data"):
        config.save_config()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("folder", "name"), [("garden/images", "garden"), ("garden", "garden")])
def test_experiment_is_named_after_the_scene(tmp_path: Path, folder: str, name: str) -> None:
    config = NopeTrainerConfig(method_name="nope-splat", output_dir=tmp_path)
    config.pipeline.datamanager.data = tmp_path / folder
    assert config.get_base_dir().parts[-3] == name
    assert config.pipeline.datamanager.dataparser.cache_dir == tmp_path / name / "cache"
