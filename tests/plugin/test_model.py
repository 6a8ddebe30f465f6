"""Test the model.

- Outputs have the shapes that nerfstudio expects; depth is large at empty pixels.
- With the true Gaussians, the photometric loss moves perturbed poses and focal length toward the truth.
- Joint training from perturbed cameras ends nearer to the truth with the track loss than without.
- Track Gaussians come first, and densification ignores them; the scale loss shrinks them.
- The number of pixels limits the number of Gaussians.
- A weight of zero removes a loss; frozen cameras have no parameters.
- A checkpoint of another size loads into the parameters that the optimizers hold.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures.splat_scene import FOCAL, SIZE, make_pipeline, set_to_truth
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils.colors import get_color
from torch import Tensor

from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig, world_to_camera
from nope_splat.plugin.camera_refinement import GradientRefinement
from nope_splat.plugin.densification_schedule import DensificationConfig
from nope_splat.plugin.learning_rates import optimizer_groups, resolve_rates
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.splatting.densification import CappedStrategy
from nope_splat.splatting.losses import track_2d_loss


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NopePipeline:
    return make_pipeline(tmp_path, monkeypatch)


def configure(**settings) -> NopeSplatModelConfig:
    defaults = {"num_downscales": 0, "background_color": "black", "sh_degree": 1}
    defaults["densification"] = DensificationConfig(reset_alpha_fraction=0.0)
    defaults["camera_optimizer"] = NopeCameraOptimizerConfig(mode="SE3", refinement=GradientRefinement())
    return NopeSplatModelConfig(**defaults | settings)


def train(
    pipeline: NopePipeline, iterations: int, only: tuple[str, ...] = (), lr: float | None = None
) -> None:
    """Run the training loop without nerfstudio's trainer, with one learning rate for the groups in `only`."""
    groups = {name: p for name, p in pipeline.get_param_groups().items() if not only or name in only}
    rates = optimizer_groups()
    resolve_rates(rates, "cpu")
    configs = {name: rates[name] for name in groups}
    for config in configs.values():
        config["scheduler"] = None
        if lr is not None:
            config["optimizer"] = type(config["optimizer"])(lr=lr)
    optimizers = Optimizers(configs, groups)
    trainer = SimpleNamespace(config=SimpleNamespace(max_num_iterations=iterations))
    attributes = TrainingCallbackAttributes(optimizers, None, pipeline, trainer)  # pyright: ignore[reportArgumentType]
    callbacks = pipeline.get_training_callbacks(attributes)
    if only:
        pipeline.model.strategy.refine_stop_iter = 0
    pipeline.train()
    for step in range(iterations):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        optimizers.zero_grad_all()
        _, losses, _ = pipeline.get_train_loss_dict(step)
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in optimizers.optimizers.values():
            optimizer.step()
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


def reprojection(pipeline: NopePipeline) -> float:
    """Compute the mean reprojection error of the true points, in pixels."""
    model = pipeline.model
    points = torch.from_numpy(pipeline.datamanager.dataparser.scene.points).float()
    with torch.no_grad():
        cameras = world_to_camera(model.camera_optimizer.poses()), model.camera_optimizer.focal()
        return float(track_2d_loss(points, *cameras, model.observations))


def test_pixels_limit_the_number_of_gaussians(pipeline: NopePipeline) -> None:
    train(pipeline, 1)
    pixels = SIZE[0] * SIZE[1] * pipeline.model.num_train_data
    numbers = 3 + 3 + 4 + 1 + 3 * 4  # mean, scales, orientation, opacity, colors with harmonics of degree 1
    strategy = pipeline.model.strategy
    assert isinstance(strategy, CappedStrategy)
    assert strategy.cap_max == 3 * pixels // numbers


def test_outputs(pipeline: NopePipeline) -> None:
    set_to_truth(pipeline)
    camera, _ = pipeline.datamanager.next_eval_image(0)
    pipeline.eval()
    outputs = pipeline.model.get_outputs_for_camera(camera)
    width, height = SIZE
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "rgb": (height, width, 3),
        "depth": (height, width, 1),
        "accumulation": (height, width, 1),
        "background": (height, width, 3),
    }
    empty = outputs["accumulation"] < 0.05
    assert empty.any()
    assert outputs["depth"][empty].min() > outputs["depth"][~empty].max()


def test_depth_is_large_at_empty_pixels(pipeline: NopePipeline) -> None:
    camera, _ = pipeline.datamanager.next_eval_image(0)
    camera.camera_to_worlds[:, :, 3] += 100
    pipeline.eval()
    assert pipeline.model.get_outputs_for_camera(camera)["depth"].min() > 100


@pytest.mark.parametrize("mode", ["SE3", "SO3xR3"])
def test_photometric_loss_corrects_poses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    cameras = NopeCameraOptimizerConfig(mode=mode, refinement=GradientRefinement())  # pyright: ignore[reportArgumentType]
    pipeline = make_pipeline(
        tmp_path, monkeypatch, model=configure(camera_optimizer=cameras, track_2d_weight=0)
    )
    set_to_truth(pipeline)
    adjustment = pipeline.model.camera_optimizer.pose_adjustment
    adjustment.data = 0.01 * torch.randn(adjustment.shape, generator=torch.Generator().manual_seed(0))
    before = reprojection(pipeline)
    train(pipeline, 350, only=("camera_opt",), lr=5e-4)
    assert reprojection(pipeline) < 0.1 * before


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_photometric_loss_corrects_the_focal_length(pipeline: NopePipeline, factor: float) -> None:
    pipeline.model.config.track_2d_weight = 0.0
    set_to_truth(pipeline)
    pipeline.model.camera_optimizer.log_focal.data.fill_(torch.log(torch.tensor(factor)))
    train(pipeline, 60, only=("focal_opt",), lr=1e-3)
    assert float(pipeline.model.camera_optimizer.focal().detach()) == pytest.approx(FOCAL, rel=2e-3)


def test_track_loss_stabilizes_cameras_in_joint_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Initial Gaussians are wrong, and without tracks the cameras compensate for it."""
    errors = []
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        pipeline = make_pipeline(tmp_path, monkeypatch, model=configure(track_2d_weight=weight))
        train(pipeline, 100)
        errors.append(reprojection(pipeline))
    assert errors[1] < 0.7 * errors[0]


def test_training_improves_the_rendering(pipeline: NopePipeline) -> None:
    torch.manual_seed(0)
    camera, batch = pipeline.datamanager.next_eval_image(0)

    def psnr() -> float:
        pipeline.eval()
        outputs = pipeline.model.get_outputs_for_camera(camera)
        return pipeline.model.get_image_metrics_and_images(outputs, batch)[0]["psnr"]

    before = psnr()
    train(pipeline, 150)
    assert psnr() > before + 2


def test_track_gaussians_come_first_and_are_not_densified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    densification = DensificationConfig(
        refine_every=5,
        start_fraction=0.0,
        densify_grad_thresh=1e-6,
        cull_alpha_thresh=0.005,
        reset_alpha_fraction=0.0,
    )
    model_config = configure(track_points="tied", densification=densification)
    pipeline = make_pipeline(tmp_path, monkeypatch, model=model_config)
    model, truth = pipeline.model, torch.from_numpy(pipeline.datamanager.dataparser.scene.points).float()
    torch.testing.assert_close(model.means[:60].detach(), truth)
    parameters = dict(model.track_params.items())
    train(pipeline, 40)
    assert len(model.gauss_params["means"]) > 60
    assert all(model.track_params[name] is parameter for name, parameter in parameters.items())
    torch.testing.assert_close(model.means[:60], model.track_positions())
    torch.testing.assert_close(model.track_positions().detach(), truth, rtol=0, atol=0.05)


def test_scale_loss_shrinks_track_gaussians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        pipeline = make_pipeline(
            tmp_path, monkeypatch, model=configure(track_points="tied", scale_weight=weight)
        )
        train(pipeline, 150)
        sizes.append(pipeline.model.track_params["scales"].exp().mean().item())
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({}, {"photometric", "track_2d"}),
        ({"camera_optimizer": NopeCameraOptimizerConfig()}, {"photometric"}),
        ({"track_2d_weight": 0, "track_3d_weight": 1}, {"photometric", "track_3d"}),
        ({"track_2d_weight": 0}, {"photometric"}),
        ({"track_points": "tied"}, {"photometric", "track_2d", "scale"}),
        ({"track_points": "tied", "scale_weight": 0}, {"photometric", "track_2d"}),
    ],
)
def test_losses_of_weight_zero_are_omitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, terms: set[str]
) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, model=configure(**settings))
    pipeline.train()
    background = torch.zeros(3)
    _, batch = pipeline.datamanager.next_train(0)
    losses = pipeline.model.get_loss_dict(
        {"rgb": torch.zeros(*SIZE[::-1], 3), "background": background}, batch
    )
    assert set(losses) == terms


def test_frozen_cameras_do_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = NopeCameraOptimizerConfig(mode="off", optimize_focal=False)
    pipeline = make_pipeline(tmp_path, monkeypatch, model=configure(camera_optimizer=frozen))
    assert not {"camera_opt", "focal_opt"} & set(pipeline.get_param_groups())
    start = pipeline.model.camera_optimizer.poses()
    train(pipeline, 5)
    torch.testing.assert_close(pipeline.model.camera_optimizer.poses(), start)
    assert float(pipeline.model.camera_optimizer.focal().detach()) == FOCAL


def test_optimizers_hold_the_parameters_of_a_loaded_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for another number of Gaussians too (Splatfacto does not train after such a resume)."""
    trained, resumed = (make_pipeline(tmp_path, monkeypatch) for _ in range(2))
    grow(trained, 90)
    groups = {name: parameters[0] for name, parameters in resumed.get_param_groups().items()}
    resumed.load_pipeline(trained.state_dict(), step=7)
    for name, parameters in resumed.get_param_groups().items():
        assert parameters[0] is groups[name]
    torch.testing.assert_close(resumed.model.means, trained.model.means)
    before = {name: parameter.detach().clone() for name, parameter in groups.items()}
    train(resumed, 3)
    assert all(not torch.equal(groups[name], before[name]) for name in groups if name != "features_rest")


def grow(pipeline: NopePipeline, count: int) -> None:
    for name, parameter in pipeline.model.gauss_params.items():
        pipeline.model.gauss_params[name] = torch.nn.Parameter(repeat_to(parameter.detach(), count))


def repeat_to(values: Tensor, count: int) -> Tensor:
    return torch.cat([values, values])[:count] * 1.01


def test_masked_pixels_are_ignored(pipeline: NopePipeline) -> None:
    width, height = SIZE
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    rendered = image.clone()
    rendered[:, width // 2 :] = 0
    mask = torch.zeros(height, width, 1, dtype=torch.bool)
    mask[:, : width // 2] = True
    outputs, batch = {"rgb": rendered, "background": torch.zeros(3)}, {"image": image, "mask": mask}
    assert pipeline.model.get_metrics_dict(outputs, batch)["psnr"] == float("inf")
    pipeline.eval()
    assert pipeline.model.get_loss_dict(outputs, batch)["photometric"].abs() < 1e-6


def in_a_thread(run: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_an_open_browser_changes_only_its_background_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(tmp_path, monkeypatch, model=configure(background_color="random"))
    model = pipeline.model.eval()
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(-20.0)  # only background
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    before, state = model.get_outputs(camera)["rgb"], {k: v.clone() for k, v in model.state_dict().items()}
    panel = torch.tensor([38, 42, 55]) / 255

    def picture() -> Tensor:
        model.set_background(panel)
        return model.get_outputs(camera)["rgb"]  # pyright: ignore[reportReturnType]

    torch.testing.assert_close(in_a_thread(picture), panel.expand(*SIZE[::-1], 3), rtol=0, atol=1e-3)
    assert not torch.allclose(model.background_color, panel, atol=0.1)
    assert torch.equal(model.get_outputs(camera)["rgb"], before)  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.background_color, state["background_color"])


def test_loading_a_checkpoint_keeps_nerfstudios_colors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In nerfstudio, names of colors refer to tensors that all models share."""
    model = make_pipeline(tmp_path, monkeypatch, model=configure(background_color="black")).model
    state = {**model.state_dict(), "background_color": torch.tensor([0.3, 0.4, 0.5])}
    model.load_state_dict(state)
    assert get_color("black").tolist() == [0, 0, 0]
