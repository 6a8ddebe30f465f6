"""Test the camera optimizer.

- Axis conversion is an involution; the world-to-camera transform is the inverse of the pose.
- Initial cameras equal the reconstruction; poses are base @ exp(delta) in every mode, and absolute.
- Gradients with respect to poses and focal length are correct at zero and elsewhere.
- The viewer's composition (original pose times `forward`) agrees; only free parameters are optimized.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from fixtures.scenes import track_scene
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils import poses as pose_utils

from nope_splat.geometry.axes import switch_axes
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizer, NopeCameraOptimizerConfig, world_to_camera
from nope_splat.plugin.camera_refinement import GradientRefinement
from nope_splat.splatting.losses import track_2d_loss

Mode = Literal["off", "SO3xR3", "SE3"]
MODES: list[Mode] = ["off", "SO3xR3", "SE3"]
MOVING: list[Mode] = ["SO3xR3", "SE3"]


def make(mode: Mode, optimize_focal: bool = True, num_cameras: int = 5) -> NopeCameraOptimizer:
    config = NopeCameraOptimizerConfig(mode=mode, optimize_focal=optimize_focal)
    cameras = NopeCameraOptimizer(config, num_cameras, "cpu").double()
    cameras.set_base(track_scene(num_views=num_cameras).poses, 900.0)
    return cameras


def test_switching_axes_twice_is_the_identity() -> None:
    poses = track_scene().poses
    torch.testing.assert_close(switch_axes(switch_axes(poses)), poses)


def test_world_to_camera_looks_forward() -> None:
    scene = track_scene()
    T = world_to_camera(scene.poses)
    torch.testing.assert_close(
        T @ pose_utils.to4x4(switch_axes(scene.poses)), torch.eye(4, dtype=torch.float64).expand(5, 4, 4)
    )
    center = T[:, :3, :3] @ scene.points.mean(dim=0) + T[:, :3, 3]
    assert torch.all(center[:, 2] > 0)


@pytest.mark.parametrize("mode", MODES)
def test_initial_cameras_are_those_of_the_reconstruction(mode: Mode) -> None:
    cameras = make(mode)
    torch.testing.assert_close(cameras.poses(), track_scene().poses)
    assert cameras.focal().item() == 900.0


@pytest.mark.parametrize("mode", MOVING)
def test_pose_is_base_times_motion_and_absolute(mode: Mode) -> None:
    """The result agrees with nerfstudio's viewer and does not depend on the pose of the input camera."""
    cameras = make(mode)
    cameras.pose_adjustment.data.normal_(std=0.1)
    expected = pose_utils.multiply(track_scene().poses, cameras(torch.arange(5)))
    torch.testing.assert_close(cameras.poses(), expected)
    camera = Cameras(torch.eye(4)[None, :3], 1.0, 1.0, 1.0, 1.0, metadata={"cam_idx": 2})
    torch.testing.assert_close(cameras.apply_to_camera(camera), expected[2:3])
    camera = Cameras(expected[2:3], 1.0, 1.0, 1.0, 1.0, metadata={"cam_idx": 2})
    torch.testing.assert_close(cameras.apply_to_camera(camera), expected[2:3])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("std", [1e-6, 0.3])
def test_set_cameras_is_the_inverse_of_moving_them(mode: Mode, std: float) -> None:
    moved, cameras = make(mode), make(mode)
    if mode != "off":
        moved.pose_adjustment.data.normal_(std=std)
    moved.log_focal.data.fill_(0.02)
    cameras.set_cameras(moved.poses(), moved.focal())
    torch.testing.assert_close(cameras.poses(), moved.poses(), rtol=0, atol=1e-7)
    torch.testing.assert_close(cameras.focal(), moved.focal())


def test_cameras_without_index_keep_their_pose() -> None:
    cameras = make("SE3")
    cameras.pose_adjustment.data.normal_()
    camera = Cameras(torch.eye(4)[None, :3], 1.0, 1.0, 1.0, 1.0)
    torch.testing.assert_close(cameras.apply_to_camera(camera), torch.eye(4)[None, :3])


@pytest.mark.parametrize("mode", MOVING)
@pytest.mark.parametrize("std", [0.0, 0.05])
def test_gradients(mode: Mode, std: float) -> None:
    """The exponential map must have the correct derivative at zero."""
    scene = track_scene(noise=2.0)
    cameras = make(mode)
    cameras.pose_adjustment.data.normal_(std=std)

    def loss() -> torch.Tensor:
        return track_2d_loss(
            scene.points, world_to_camera(cameras.poses()), cameras.focal(), scene.observations
        )

    parameters = [cameras.pose_adjustment, cameras.log_focal]
    gradients = torch.autograd.grad(loss(), parameters)
    step = 1e-6
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        torch.testing.assert_close(
            (above - below) / (2 * step), (gradient * direction).sum(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimize_focal", [True, False])
def test_only_free_parameters_are_optimized(mode: Mode, optimize_focal: bool) -> None:
    groups: dict = {}
    cameras = make(mode, optimize_focal)
    cameras.config.refinement = GradientRefinement()
    cameras.get_param_groups(groups)
    assert ("camera_opt" in groups) == (mode != "off")
    assert ("focal_opt" in groups) == optimize_focal


def test_no_penalty_on_motion_by_default() -> None:
    losses: dict = {}
    make("SE3").get_loss_dict(losses)
    assert losses == {}


def test_metrics_measure_changes() -> None:
    cameras = make("SE3")
    cameras.log_focal.data.fill_(torch.log(torch.tensor(1.01)))
    cameras.pose_adjustment.data[0] = torch.tensor([0.3, 0.0, 0.4, 0.0, torch.pi / 180, 0.0])
    metrics: dict = {}
    cameras.get_metrics_dict(metrics)
    assert metrics["focal_px"].item() == pytest.approx(909.0)
    assert metrics["focal_change_percent"].item() == pytest.approx(1.0)
    assert metrics["camera_rotation_max_deg"].item() == pytest.approx(1.0)
    assert metrics["camera_rotation_mean_deg"].item() == pytest.approx(0.2)
    assert metrics["camera_translation_max"].item() == pytest.approx(0.5)


def test_two_cameras_have_separate_focal_lengths() -> None:
    cameras = NopeCameraOptimizer(
        NopeCameraOptimizerConfig(mode="SE3"),
        3,
        "cpu",
        intrinsics_ids=torch.tensor([0, 1, 0]),
        num_intrinsics=2,
    )
    cameras.set_base(track_scene(num_views=3).poses, torch.tensor([900.0, 500.0]))
    cameras.log_focal.data[1] = torch.log(torch.tensor(1.02))
    torch.testing.assert_close(cameras.view_focals(), torch.tensor([900.0, 510.0, 900.0]))
    camera = Cameras(torch.eye(4)[None, :3], 1.0, 1.0, 1.0, 1.0, metadata={"cam_idx": 1})
    K, distortion = cameras.apply_to_intrinsics(camera, torch.diag(torch.tensor([100.0, 100.0, 1.0]))[None])
    assert distortion is None
    torch.testing.assert_close(K[0].diagonal(), torch.tensor([102.0, 102.0, 1.0]))
    K[0, 0, 0].backward()
    assert cameras.log_focal.grad is not None
    torch.testing.assert_close(cameras.log_focal.grad, torch.tensor([0.0, 102.0]))
    metrics: dict = {}
    cameras.get_metrics_dict(metrics)
    assert metrics["focal_px/2"].item() == pytest.approx(510.0)
    assert metrics["focal_change_percent/1"].item() == 0.0


def test_checkpoint_round_trip() -> None:
    cameras, restored = (
        make("SE3"),
        NopeCameraOptimizer(NopeCameraOptimizerConfig(mode="SE3"), 5, "cpu").double(),
    )
    cameras.pose_adjustment.data.normal_(std=0.1)
    cameras.log_focal.data.fill_(0.1)
    restored.load_state_dict(cameras.state_dict())
    torch.testing.assert_close(restored.poses(), cameras.poses())
    torch.testing.assert_close(restored.focal(), cameras.focal())
