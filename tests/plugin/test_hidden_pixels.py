"""Test that masked pixels affect neither training nor evaluation.

Images that differ only in masked pixels give bit-identical losses, gradients, joint refinement, held-out
poses and metrics.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.splat_scene import SIZE, make_pipeline, set_to_truth
from torch import Tensor

from nope_splat.evaluation.image_metrics import ImageMetrics
from nope_splat.plugin.camera_adjustment import adjust_cameras
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.pipeline import NopePipeline

WIDTH, HEIGHT = SIZE


def noise(seed: int) -> Tensor:
    """Draw a random color per pixel. (H, W, 3)."""
    return torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))


def used_pixels(view: int) -> Tensor:
    """Mask an area that moves from view to view and is not aligned to downscaled pixels. (H, W, 1)."""
    used = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    used[15 : 41 + view, 20 + 3 * view : 51 + 3 * view] = False
    return used


@pytest.fixture
def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[NopePipeline]:
    """Create two pipelines with perturbed cameras and different content behind the masks."""
    pipelines = []
    for seed in (1, 100):
        model = NopeSplatModelConfig(
            camera_optimizer=NopeCameraOptimizerConfig(mode="SE3"),
            num_downscales=1,
            background_color="black",
            sh_degree=1,
        )
        pipeline = make_pipeline(tmp_path, monkeypatch, model=model)
        set_to_truth(pipeline)
        for cached in (pipeline.datamanager.cached_train, pipeline.datamanager.cached_eval):
            for view, batch in enumerate(cached):
                used = used_pixels(view)
                batch |= {"image": torch.where(used, batch["image"], noise(seed + view)), "mask": used}
        cameras, generator = pipeline.model.camera_optimizer, torch.Generator().manual_seed(0)
        cameras.pose_adjustment.data = 0.01 * torch.randn(cameras.pose_adjustment.shape, generator=generator)
        cameras.log_focal.data.fill_(0.01)
        pipelines.append(pipeline)
    return pipelines


@pytest.mark.parametrize("factor", [2, 1])
def test_losses_and_gradients(pipelines: list[NopePipeline], factor: int) -> None:
    outcomes = []
    for pipeline in pipelines:
        pipeline.train()
        model, batch = pipeline.model, pipeline.datamanager.cached_train[0]
        model.step = 0 if factor == 2 else model.num_iterations - 1
        rendered = noise(7)[::factor, ::factor].requires_grad_()
        loss = model.get_loss_dict({"rgb": rendered, "background": torch.zeros(3)}, batch)["photometric"]
        outcomes.append((loss.detach(), *torch.autograd.grad(loss, rendered)))
    (loss, gradient), (other_loss, other_gradient) = outcomes
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    hidden = ~used_pixels(0)[::factor, ::factor, 0]
    assert not gradient[hidden].any()
    assert gradient[~hidden].any()


def test_joint_refinement(pipelines: list[NopePipeline]) -> None:
    cameras = []
    for pipeline in pipelines:
        pipeline.train()
        pipeline.model.step = pipeline.model.num_iterations - 1
        data = pipeline.datamanager
        result = adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
        assert result.photometric_share > 0.1
        cameras.append((pipeline.model.camera_optimizer.poses(), pipeline.model.camera_optimizer.focal()))
    (poses, focal), (other_poses, other_focal) = cameras
    assert torch.equal(poses, other_poses)
    assert torch.equal(focal, other_focal)


def test_held_out_poses_and_metrics(pipelines: list[NopePipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nope_splat.plugin.pipeline.resect_on_trained_points", lambda *args: None)
    results = []
    for pipeline in pipelines:
        pipeline.eval_poses += 0.01 * torch.randn(
            pipeline.eval_poses.shape, generator=torch.Generator().manual_seed(0)
        )
        before = pipeline.eval_poses.clone()
        metrics = pipeline.get_average_eval_image_metrics(3)
        assert not torch.equal(pipeline.eval_poses, before)
        del metrics["num_rays_per_sec"], metrics["fps"]
        results.append((pipeline.eval_poses, metrics))
    (poses, metrics), (other_poses, other_metrics) = results
    assert torch.equal(poses, other_poses)
    assert metrics == other_metrics
    assert {"psnr", "ssim"} <= set(metrics)


def test_metrics_ignore_masked_pixels() -> None:
    """An image next to a masked one has the metrics of the single image."""
    image, error = noise(1), 0.2 * (noise(2) - 0.5)
    single = ImageMetrics()(image + error, image)
    wide, mask = image.repeat(1, 4, 1), torch.zeros(HEIGHT, 4 * WIDTH, 1, dtype=torch.bool)
    mask[:, :WIDTH] = True
    padded = ImageMetrics()(torch.cat([image + error, noise(3).repeat(1, 3, 1)], dim=1), wide, mask)
    assert padded["psnr"] == pytest.approx(single["psnr"], abs=1e-3)
    assert padded["ssim"] == pytest.approx(single["ssim"], abs=0.02)  # windows at the border overlap both
    assert ImageMetrics()(image, image, mask[:, :WIDTH])["ssim"] == pytest.approx(1)
