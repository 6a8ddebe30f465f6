"""Test joint refinement during training.

- One call recovers perturbed cameras in every mode, and does not move the Gaussians.
- Frozen poses, a frozen focal length, and one that the reconstruction kept fixed do not change.
- Trainings refine at intervals, more often with few tracks; gradients do not move the cameras then.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from fixtures.splat_scene import FOCAL, SIZE, make_pipeline, set_to_truth, write_scene

from nope_splat.plugin.camera_adjustment import adjust_cameras, has_few_tracks
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.camera_refinement import GradientRefinement, JointRefinement
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.refinement import photometric as photometric_alignment
from nope_splat.refinement.joint import JointResult, RenderView
from nope_splat.sfm import Reconstruction
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem
from nope_splat.splatting.losses import TrackObservations

Mode = Literal["off", "SO3xR3", "SE3"]


def make(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> NopePipeline:
    defaults: dict[str, Any] = {"mode": "SE3"}
    cameras = NopeCameraOptimizerConfig(**defaults | settings)
    model = NopeSplatModelConfig(
        camera_optimizer=cameras, num_downscales=0, background_color="black", sh_degree=1
    )
    pipeline = make_pipeline(folder, monkeypatch, model=model)
    set_to_truth(pipeline)
    model = pipeline.model
    noise = torch.randn(model.observations.xy.shape, generator=torch.Generator().manual_seed(1))
    model.observations = model.observations._replace(xy=model.observations.xy + 0.3 * noise)
    pipeline.train()
    pipeline.model.step = pipeline.model.num_iterations - 1
    return pipeline


def adjust(pipeline: NopePipeline) -> None:
    data = pipeline.datamanager
    result = adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    assert all(after < before for before, after in result.costs)
    metrics: dict[str, Any] = {}
    pipeline.model.camera_optimizer.get_metrics_dict(metrics)
    assert metrics["adjustment_cost_change_percent"] < 0


@pytest.mark.parametrize("mode", ["SE3", "SO3xR3"])
def test_perturbed_cameras_are_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    pipeline = make(tmp_path, monkeypatch, mode=mode)
    cameras = pipeline.model.camera_optimizer
    truth, gaussians = cameras.poses().detach(), pipeline.model.means.detach().clone()
    generator = torch.Generator().manual_seed(0)
    cameras.pose_adjustment.data = 0.01 * torch.randn(cameras.pose_adjustment.shape, generator=generator)
    cameras.log_focal.data.fill_(0.01)
    before = (cameras.poses() - truth).abs().max()
    adjust(pipeline)
    assert (cameras.poses() - truth).abs().max() < 0.1 * before
    assert float(cameras.focal().detach()) == pytest.approx(FOCAL, rel=1e-3)
    assert torch.equal(pipeline.model.means, gaussians)


def test_frozen_poses_do_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(tmp_path, monkeypatch, mode="off")
    cameras = pipeline.model.camera_optimizer
    truth = cameras.poses().detach().clone()
    cameras.log_focal.data.fill_(0.01)
    adjust(pipeline)
    assert torch.equal(cameras.poses(), truth)
    assert float(cameras.focal().detach()) == pytest.approx(FOCAL, rel=2e-3)


def test_a_frozen_focal_length_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(tmp_path, monkeypatch, optimize_focal=False)
    cameras = pipeline.model.camera_optimizer
    truth = cameras.poses().detach()
    cameras.pose_adjustment.data.fill_(0.005)
    adjust(pipeline)
    assert (cameras.poses() - truth).abs().max() < 0.001
    assert float(cameras.focal().detach()) == FOCAL


@pytest.mark.parametrize("refinement", [JointRefinement(), GradientRefinement()])
def test_a_focal_length_fixed_by_the_reconstruction_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refinement: JointRefinement | GradientRefinement
) -> None:
    def held(*args: Any, **kwargs: Any) -> Reconstruction:
        return replace(write_scene(*args, **kwargs), focal_fixed=True)

    monkeypatch.setattr("fixtures.splat_scene.write_scene", held)
    pipeline = make(tmp_path, monkeypatch, refinement=refinement)
    if isinstance(refinement, GradientRefinement):
        assert "camera_opt" in pipeline.get_param_groups()
        assert "focal_opt" not in pipeline.get_param_groups()
    else:
        pipeline.model.camera_optimizer.pose_adjustment.data.fill_(0.005)
        adjust(pipeline)
    assert float(pipeline.model.camera_optimizer.focal().detach()) == FOCAL


def test_gradients_do_not_move_the_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(tmp_path, monkeypatch)
    assert not {"camera_opt", "focal_opt"} & set(pipeline.get_param_groups())


def test_refinements_are_evenly_spaced() -> None:
    config = NopeCameraOptimizerConfig(mode="SE3", refinement=JointRefinement(start=0.4, interval=0.25))
    cameras = config.setup(num_cameras=2, device="cpu")
    assert cameras.refinement_iterations(1000) == (400, 650, 900)
    assert cameras.refinement_iterations(2) == (1,)
    assert cameras.refinement_iterations(2000, few_tracks=True) == tuple(range(200, 2000, 40))
    assert cameras.refinement_iterations(500, few_tracks=True)[0] == 100


def test_few_tracks_use_single_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(tmp_path, monkeypatch)
    model = pipeline.model
    steps = []
    for copies in (1, 4):
        model.observations = TrackObservations(*(torch.cat([v] * copies) for v in model.observations))
        assert has_few_tracks(model) == (copies == 1)
        with torch.no_grad():
            model.camera_optimizer.pose_adjustment[1:] += 1e-3
        pipeline.adjust_cameras(0)
        steps.append(model.camera_optimizer.last_adjustment["adjustment_steps"])
    assert steps[0] == 1 < steps[1]


@pytest.mark.parametrize(("size", "pyramid_levels"), [(40, 2), (50, 1), (96, 0), (10_000, 0)])
def test_large_images_are_downscaled_for_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, pyramid_levels: int
) -> None:
    pipeline = make(tmp_path, monkeypatch, refinement=JointRefinement(max_image_size=size))
    monkeypatch.setattr(photometric_alignment, "MIN_SIZE", 1)
    views = []

    def render_once(problem: BundleProblem, render_view: RenderView, **_: Any) -> JointResult:
        views.append(render_view(0, problem.T_camera_world[0], problem.intrinsics[0]))
        return JointResult(problem, (), 0.0)

    monkeypatch.setattr("nope_splat.plugin.camera_adjustment.adjust_jointly", render_once)
    data = pipeline.datamanager
    adjust_cameras(pipeline.model, data.train_dataset.cameras, data.cached_train)
    assert views[0].image.shape[:2] == (SIZE[1] >> pyramid_levels, SIZE[0] >> pyramid_levels)
    assert float(views[0].focal[0]) == pytest.approx(FOCAL / 2**pyramid_levels)
