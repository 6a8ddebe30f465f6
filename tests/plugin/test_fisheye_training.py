"""Test trainings on images of fisheye lenses.

- Photos keep the equidistant projection and lose their distortion; nerfstudio's cameras are fisheye cameras.
- Joint refinement finds poses, focal length and, if learned, the lens; gradient steps reduce the loss.
- A training reaches the quality of one on pinhole images, and nerfstudio's commands render its cameras.
- Checkpoints and mixed cameras keep the projection of each camera.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from fixtures.splat_scene import CAMERA, FOCAL, OFFSET, make_pipeline, set_to_truth, write_scene
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.scripts.render import DatasetRender, RenderInterpolated
from nerfstudio.scripts.train import entrypoint

from nope_splat.geometry.camera import Camera
from nope_splat.plugin.camera_adjustment import adjust_cameras
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.camera_refinement import CameraRefinement, GradientRefinement, JointRefinement
from nope_splat.plugin.load_run import open_run, optimized_scene
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.summary import camera_rows

IDEAL = Camera(FOCAL, OFFSET, is_fisheye=True)
BENT = replace(IDEAL, distortion=(-0.1, 0.02, 0.01, -0.004, 0.0, 0.0))


def make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refinement: CameraRefinement, learns: bool, **settings: Any
) -> NopePipeline:
    """Create a pipeline whose Gaussians are the true ones, in training mode."""
    cameras = NopeCameraOptimizerConfig(
        mode="SE3", refinement=refinement, optimize_principal_point=learns, optimize_distortion=learns
    )
    model = NopeSplatModelConfig(
        camera_optimizer=cameras, num_downscales=0, background_color="black", sh_degree=1
    )
    pipeline = make_pipeline(folder, monkeypatch, model=model, **settings)
    set_to_truth(pipeline)
    pipeline.train()
    pipeline.model.step = pipeline.model.num_iterations - 1
    return pipeline


def test_photos_keep_their_projection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bent = make(tmp_path / "bent", monkeypatch, JointRefinement(), False, taken_with=BENT, reconstructed=BENT)
    assert bent.datamanager.dataparser.scene.cameras == (IDEAL,)
    assert (bent.datamanager.train_dataset.cameras.camera_type == CameraType.FISHEYE.value).all()
    assert float(bent.model.reprojection_errors().max()) < 1e-3
    ideal = make(
        tmp_path / "ideal", monkeypatch, JointRefinement(), False, taken_with=IDEAL, reconstructed=IDEAL
    )
    pairs = zip(bent.datamanager.cached_train, ideal.datamanager.cached_train, strict=True)
    for batch, expected in pairs:
        assert (batch["image"] - expected["image"]).abs().mean() < 0.01
    assert optimized_scene(bent).cameras == (BENT,)
    assert (
        camera_rows(bent.datamanager.dataparser.distorted_scene, 0)["projection"] == "equidistant (fisheye)"
    )


def test_joint_refinement_finds_the_focal_length_and_poses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(BENT, focal=1.01 * FOCAL)
    pipeline = make(tmp_path, monkeypatch, JointRefinement(), False, taken_with=BENT, reconstructed=wrong)
    data, cameras = pipeline.datamanager, pipeline.model.camera_optimizer
    truth = cameras.base_poses.clone()
    noise = torch.Generator().manual_seed(0)
    cameras.pose_adjustment.data.copy_(0.003 * torch.randn(cameras.pose_adjustment.shape, generator=noise))
    before = (cameras.poses() - truth)[:, :, 3].norm(dim=1).mean().item()
    for _ in range(2):
        adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    assert cameras.focal().item() == pytest.approx(FOCAL, rel=1e-3)
    assert (cameras.poses() - truth)[:, :, 3].norm(dim=1).mean().item() < 0.3 * before
    pipeline.align_held_out(9)
    assert pipeline.get_average_eval_image_metrics(step=9)["psnr"] > 30


def test_joint_refinement_learns_a_fisheye_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = replace(
        BENT, offset=(OFFSET[0] + 1.0, OFFSET[1] - 1.0), distortion=(0.0, 0.0, *BENT.distortion[2:])
    )
    pipeline = make(tmp_path, monkeypatch, JointRefinement(), True, taken_with=BENT, reconstructed=start)
    data = pipeline.datamanager
    assert "mask" not in data.cached_train[0]  # the image is not resampled
    for _ in range(2):
        adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    (camera,) = pipeline.model.camera_optimizer.cameras(data.dataparser.scene.cameras)
    assert camera.is_fisheye
    assert camera.distortion[2:] == BENT.distortion[2:]
    corners = np.array([[-0.4, -0.3, 1], [0.4, -0.3, 1], [-0.4, 0.3, 1], [0.4, 0.3, 1], [0, 0, 1]])
    size = np.array([96, 72])
    np.testing.assert_allclose(camera.project(corners, size), BENT.project(corners, size), atol=0.1)
    pipeline.align_held_out(9)
    assert pipeline.get_average_eval_image_metrics(step=9)["psnr"] > 30


@pytest.mark.parametrize("learns", [False, True])
def test_gradient_steps_reduce_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learns: bool
) -> None:
    wrong = replace(BENT, focal=1.03 * FOCAL)
    pipeline = make(tmp_path, monkeypatch, GradientRefinement(), learns, taken_with=BENT, reconstructed=wrong)
    cameras = pipeline.model.camera_optimizer
    for name in ("strategy", "strategy_state", "optimizers"):  # normally set up by a training
        monkeypatch.setattr(pipeline.model, name, Mock(), raising=False)
    optimizer = torch.optim.Adam([cameras.log_focal], lr=4e-3)
    camera, batch = pipeline.datamanager.next_train(0)
    losses = []
    for _ in range(12):
        outputs: Any = pipeline.model.get_outputs(camera)
        loss = pipeline.model.get_loss_dict(outputs, batch)["photometric"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]
    assert cameras.focal().item() == pytest.approx(FOCAL, rel=0.01)


def test_cameras_of_both_projections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last images are those of a pinhole camera."""
    num_views, fisheye = 9, 5
    first = write_scene(tmp_path / "pinhole", num_views, (), True)
    second = write_scene(tmp_path, num_views, (), True, BENT, BENT)
    for view in range(fisheye, num_views):
        name = second.image_names[view]
        (tmp_path / "pinhole" / "images" / name).replace(tmp_path / "images" / name)

    def mixed(which: str) -> Any:
        ours, theirs = getattr(second, which), getattr(first, which)
        return replace(ours, xy=np.where(ours.image_ids[:, None] < fisheye, ours.xy, theirs.xy))

    scene = replace(
        second,
        cameras=(BENT, CAMERA),
        camera_ids=(np.arange(num_views) >= fisheye).astype(np.int64),
        observations=mixed("observations"),
        resections=mixed("resections"),
    )
    pipeline = make(tmp_path / "unused", monkeypatch, JointRefinement(), False)
    monkeypatch.setattr("nope_splat.plugin.dataparser.reconstruct", lambda *args: scene)
    config = pipeline.config
    config.datamanager.data = tmp_path
    pipeline = config.setup(device="cpu", test_mode="val")
    set_to_truth(pipeline)
    pipeline.train()
    data, cameras = pipeline.datamanager, pipeline.model.camera_optimizer
    assert float(pipeline.model.reprojection_errors().max()) < 1e-3
    assert pipeline.get_extra_state()["is_fisheye"] == [True, False]
    adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    torch.testing.assert_close(cameras.focal(), torch.full((2,), FOCAL), rtol=2e-3, atol=0)
    pipeline.align_held_out(9)
    assert pipeline.get_average_eval_image_metrics(step=9)["psnr"] > 30


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, camera: Camera) -> Path:
    """Train on images of a camera, and return the config file of the run."""
    scene = write_scene(folder / "data", 9, (), True, camera, camera)
    monkeypatch.setattr("nope_splat.plugin.dataparser.reconstruct", lambda *args: scene)
    arguments = ["--data", folder / "data", "--output-dir", folder, "--vis", "tensorboard"]
    arguments += ["--max-num-iterations", 200, "--experiment-name", "run", "--timestamp", "first"]
    arguments += ["--pipeline.datamanager.dataparser.seeds", "tracks"]
    arguments += ["--pipeline.model.background-color", "black", "--pipeline.model.num-downscales", 0]
    monkeypatch.setattr(sys, "argv", ["ns-train", "nope-splat", *map(str, arguments)])
    entrypoint()
    (config,) = folder.rglob("config.yml")
    return config


def test_training_is_as_good_as_on_pinhole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerfstudio.utils.install_checks.check_ffmpeg_installed", lambda: None)
    pinhole = open_run(train(tmp_path / "pinhole", monkeypatch, CAMERA)).pipeline
    config = train(tmp_path / "fisheye", monkeypatch, BENT)
    fisheye = open_run(config).pipeline
    scores = [run.get_average_eval_image_metrics()["psnr"] for run in (pinhole, fisheye)]
    assert scores[1] > max(scores[0] - 1, 15), scores
    DatasetRender(config, tmp_path / "renders", split="test", rendered_output_names=["rgb"]).main()
    assert len(list((tmp_path / "renders" / "test" / "rgb").iterdir())) == 2
    RenderInterpolated(config, tmp_path / "path", output_format="images", interpolation_steps=2).main()
    assert len(list((tmp_path / "path").iterdir())) == 2
