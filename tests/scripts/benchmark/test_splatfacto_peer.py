"""Test the baseline: stock splatfacto on this machine, with a scaled schedule and a limit on Gaussians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models import splatfacto
from pytorch_msssim import SSIM

from scripts.benchmark.camera_file import CameraFile
from scripts.benchmark.splatfacto_peer import (
    PeerModel,
    PeerModelConfig,
    Settings,
    Similarity,
    run_anywhere,
    splatfacto_config,
)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply `run_anywhere`, and undo it afterwards."""
    for owner, name in ((torch.Tensor, "cuda"), (splatfacto, "rasterization"), (splatfacto, "get_viewmat")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    run_anywhere()


def settings(folder: Path, length: int, schedule: str = "proportional") -> Settings:
    (folder / "images").mkdir()
    for number in range(6):
        (folder / "images" / f"{number}.png").touch()
    return Settings(folder, folder / "out", length, 500, schedule)


def test_proportional_schedule_is_stock_at_the_stock_length(tmp_path: Path) -> None:
    config = splatfacto_config(settings(tmp_path, 30_000))
    stock, scaled = vars(splatfacto.SplatfactoModelConfig()), vars(config.pipeline.model)
    assert {name for name in stock if scaled[name] != stock[name]} == {"_target"}
    assert config.optimizers["means"]["scheduler"].max_steps == 30_000


def test_schedule_scales_with_the_length(tmp_path: Path) -> None:
    model = splatfacto_config(settings(tmp_path, 3000)).pipeline.model
    assert isinstance(model, PeerModelConfig)
    assert model.stop_split_at == 1500
    assert model.resolution_schedule == 300
    assert model.reset_alpha_every * model.refine_every == 300


def test_poses_are_frozen(tmp_path: Path) -> None:
    model = splatfacto_config(settings(tmp_path, 3000)).pipeline.model
    assert isinstance(model, PeerModelConfig)
    assert model.camera_optimizer.mode == "off"


@pytest.mark.usefixtures("anywhere")
def test_model_renders_and_limits_the_number_of_gaussians() -> None:
    torch.manual_seed(0)
    points = torch.rand(50, 3) - 0.5, torch.full((50, 3), 255, dtype=torch.uint8)
    config = PeerModelConfig(max_gaussians=60)
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model = config.setup(scene_box=box, num_train_data=3, seed_points=points)
    assert isinstance(model, PeerModel)
    assert model.strategy.cap_max == 60
    pose = torch.eye(4)[:3]
    pose[2, 3] = 3.0
    camera = Cameras(pose[None], 40.0, 40.0, 16.0, 12.0, 32, 24)
    rgb, alpha = map(model.eval().get_outputs(camera).get, ("rgb", "accumulation"))
    assert isinstance(rgb, torch.Tensor)
    assert isinstance(alpha, torch.Tensor)
    assert rgb.shape == (24, 32, 3)
    assert alpha.max() > 0.1


def test_similarity_and_gradient_match_the_stock_model() -> None:
    image_file, rendered = torch.rand(2, 1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    gradients = []
    for similarity in (Similarity(), SSIM(data_range=1.0, size_average=True, channel=3)):
        image = rendered.clone().requires_grad_()
        value = similarity(image_file, image)
        value.backward()
        assert image.grad is not None
        gradients.append(torch.cat([value.detach()[None], image.grad.flatten()]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_camera_file_round_trip(tmp_path: Path) -> None:
    file = CameraFile({"a/b.jpg": np.eye(4)}, {}, 500.0, (1.0, -2.0), 7, 3.0, {"mapping": 1.0})
    file.save(tmp_path / "folder" / "cameras.json")
    again = CameraFile.load(tmp_path / "folder" / "cameras.json")
    np.testing.assert_array_equal(again.T_world_camera["a/b.jpg"], np.eye(4))
    assert (again.focal, again.offset, again.num_points) == (500.0, (1.0, -2.0), 7)
    assert (again.median_depth, again.seconds) == (3.0, {"mapping": 1.0})
