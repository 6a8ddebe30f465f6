"""Test held-out images and checkpoints.

- Alignment follows a world frame that training has moved, and changes only the poses.
- Metrics use aligned poses, include the number of unregistered images, and need at least one view.
- A checkpoint provides its cameras to viewer, rendering and export, and rejects other images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.errors import refused
from fixtures.scenes import track_scene
from fixtures.splat_scene import FOCAL, make_pipeline, set_to_truth
from nerfstudio.utils import poses as pose_utils

from nope_splat.plugin import pipeline as pipeline_module
from nope_splat.plugin.pipeline import NopePipeline


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NopePipeline:
    pipeline = make_pipeline(tmp_path, monkeypatch)
    set_to_truth(pipeline)
    return pipeline


def move_world(pipeline: NopePipeline) -> torch.Tensor:
    """Rotate and shift all parameters; return the expected poses of the held-out views."""
    angle = torch.tensor(0.05)
    turn = torch.eye(3)
    turn[0, 0] = turn[1, 1] = angle.cos()
    turn[0, 1], turn[1, 0] = -angle.sin(), angle.sin()
    motion = torch.cat([turn, torch.tensor([[0.1], [-0.05], [0.02]])], dim=1)
    model = pipeline.model
    for points in (model.gauss_params["means"], model.track_points):
        assert points is not None
        points.data = points.data @ motion[:, :3].T + motion[:, 3]
    model.camera_optimizer.base_poses.copy_(pose_utils.multiply(motion, model.camera_optimizer.base_poses))
    return pose_utils.multiply(motion, track_scene(num_views=9).poses[::8].float())


def test_alignment_follows_the_world_frame(pipeline: NopePipeline) -> None:
    expected = move_world(pipeline)
    before = {name: value.clone() for name, value in pipeline.model.state_dict().items()}
    pipeline.train()
    pipeline.align_held_out(5)
    torch.testing.assert_close(pipeline.eval_poses, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(
        pipeline.datamanager.eval_dataset.cameras.camera_to_worlds, pipeline.eval_poses
    )
    assert pipeline.model.training
    for name, value in pipeline.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in pipeline.model.parameters())


def test_photometric_refinement_improves_a_poor_registration(
    pipeline: NopePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nope_splat.plugin.pipeline.resect_on_trained_points", lambda *args: None)
    expected = pipeline.eval_poses.clone()
    pipeline.eval_poses += 0.01 * torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    pipeline.eval_poses[..., :3] = expected[..., :3]
    before = (pipeline.eval_poses - expected).abs().max()
    pipeline.align_held_out(1)
    assert (pipeline.eval_poses - expected).abs().max() < 0.5 * before


def test_alignment_is_done_once_per_state(pipeline: NopePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.align_held_out(3)
    monkeypatch.setattr("nope_splat.plugin.pipeline.refine_pose", lambda *args: pytest.fail("aligned again"))
    pipeline.align_held_out(3)
    pipeline.get_average_eval_image_metrics(step=3)


def test_evaluating_one_image_aligns_only_that_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch)
    refine, refined = pipeline_module.refine_pose, []

    def count(*args: Any) -> torch.Tensor:
        refined.append(args)
        return refine(*args)

    monkeypatch.setattr(pipeline_module, "refine_pose", count)
    pipeline.get_eval_image_metrics_and_images(3)
    assert len(refined) == 1
    assert int(pipeline.aligned_step) == -1  # only one; the checkpoint is aligned when it is loaded
    pipeline.align_held_out(3)
    assert len(refined) == 2  # of two held-out images
    assert int(pipeline.aligned_step) == 3
    pipeline.get_eval_image_metrics_and_images(3)
    assert len(refined) == 2


def test_commands_open_a_run_on_a_machine_with_a_gpu_without_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands of nerfstudio request a GPU if torch finds one."""
    monkeypatch.setattr(pipeline_module, "choose_device", lambda: "cpu")
    pipeline = make_pipeline(tmp_path, monkeypatch, test_mode="inference", device="cuda")
    assert pipeline.device.type == "cpu"


def test_metrics_use_aligned_poses(pipeline: NopePipeline, caplog: pytest.LogCaptureFixture) -> None:
    move_world(pipeline)
    metrics = pipeline.get_average_eval_image_metrics(step=1, get_std=True)
    assert metrics["psnr"] > 30
    assert metrics["held_out_unregistered"] == 0
    single, images = pipeline.get_eval_image_metrics_and_images(1)
    assert single["psnr"] > 30
    assert images["img"].shape == (72, 192, 3)
    assert "mean of 2" not in caplog.text
    pipeline.get_average_eval_image_metrics()  # like ns-eval, which prints no other output
    assert f"Held-out photos (mean of 2): PSNR {metrics['psnr']:.3f}, SSIM" in caplog.text


def test_unregistered_held_out_images_are_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, unregistered=(8,))
    metrics = pipeline.get_average_eval_image_metrics(step=1, get_std=True)
    assert metrics["held_out_unregistered"] == 1
    assert not any(name.endswith("_std") for name in metrics)  # one image has none
    assert "08.png" in caplog.text


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"eval_mode": "all"}, ("eval-mode", "eval-interval")), ({"unregistered": (0, 8)}, ("00.png, 08.png",))],
)
def test_no_held_out_view_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, named: tuple[str, ...]
) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, **settings)
    with refused("nothing-to-evaluate", *named):
        pipeline.get_average_eval_image_metrics()


def test_a_checkpoint_restores_its_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_pipeline(tmp_path, monkeypatch)
    set_to_truth(trained)
    move_world(trained)
    trained.model.camera_optimizer.log_focal.data.fill_(0.01)
    trained.align_held_out(9)
    trained.model.background_color.copy_(torch.tensor([0.3, 0.4, 0.5]))  # from seeds that only a training has
    torch.save(trained.state_dict(), tmp_path / "checkpoint")
    loaded = make_pipeline(tmp_path, monkeypatch, test_mode="inference")
    loaded.load_pipeline(torch.load(tmp_path / "checkpoint", weights_only=True), step=9)
    assert torch.equal(loaded.model.background_color, trained.model.background_color)
    datamanagers = [loaded.datamanager, loaded.config.datamanager.setup(device="cpu", test_mode="test")]
    for data in datamanagers:  # ns-render makes the second one
        torch.testing.assert_close(
            data.train_dataset.cameras.camera_to_worlds, trained.model.camera_optimizer.poses().detach()
        )
        torch.testing.assert_close(data.eval_dataset.cameras.camera_to_worlds, trained.eval_poses)
        focal = torch.full_like(data.eval_dataset.cameras.fx, 1.01005 * FOCAL)
        torch.testing.assert_close(data.eval_dataset.cameras.fx, focal)


def test_a_checkpoint_saved_between_evaluations_is_aligned_when_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_pipeline(tmp_path, monkeypatch)
    set_to_truth(trained)
    expected = move_world(trained)
    loaded = make_pipeline(tmp_path, monkeypatch, test_mode="test")
    loaded.load_pipeline(trained.state_dict(), step=4)
    torch.testing.assert_close(loaded.eval_poses, expected, rtol=0, atol=2e-3)


def test_other_images_or_another_reconstruction_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_pipeline(tmp_path, monkeypatch).state_dict()
    other = make_pipeline(tmp_path / "other", monkeypatch, num_views=10)
    with refused("checkpoint-mismatch", "photos"):
        other.load_pipeline(state, step=1)
    same = make_pipeline(tmp_path, monkeypatch)
    state["_extra_state"] = {**state["_extra_state"], "focal": 99.0}
    with refused("checkpoint-mismatch", "reconstruction"):
        same.load_pipeline(state, step=1)


FOCAL_NAME, POSES_NAME = "_model.camera_optimizer.log_focal", "_model.camera_optimizer.pose_adjustment"


def lacks(state: dict) -> None:
    del state[FOCAL_NAME]


def has_more(state: dict) -> None:
    state["_model.camera_optimizer.zoom"] = torch.zeros(1)


def has_other_shapes(state: dict) -> None:
    state[POSES_NAME] = state[POSES_NAME][:2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lacks, f"ValueError: it has no {FOCAL_NAME}"),
        (has_more, "ValueError: it has an unknown _model.camera_optimizer.zoom"),
        (has_other_shapes, "RuntimeError: Error(s) in loading state_dict for "),
    ],
)
@pytest.mark.parametrize("test_mode", ["val", "inference"])
def test_a_checkpoint_of_another_version_raises(
    change: Callable[[dict], None],
    reason: str,
    test_mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loading with nerfstudio would ignore missing parameters and show an untrained splat."""
    pipeline = make_pipeline(tmp_path, monkeypatch, test_mode=test_mode)
    state = dict(pipeline.state_dict())
    change(state)
    with refused("checkpoint-mismatch", reason, "--resume"):
        pipeline.load_pipeline(state, step=1)
