"""Test intrinsics that joint refinement and gradient steps learn.

- Derivatives of pixel positions, of the photometric cost and of the joint equations with respect to all
  intrinsics agree with finite differences.
- A perturbed principal point and distortion are recovered; fixed parameters do not change, and priors
  constrain undetermined ones.
- Parameters, cameras and checkpoints agree; the principal point of mixed orientations is kept.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.scenes import track_scene
from fixtures.sparse_scene import make_scene
from fixtures.wall_scene import FOCAL, project, wall
from torch import Tensor

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.projection import MIN_FISHEYE_COSINE, to_plane
from nope_splat.geometry.rigid import move_poses, transform
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizer, NopeCameraOptimizerConfig, world_to_camera
from nope_splat.plugin.camera_refinement import GradientRefinement, JointRefinement
from nope_splat.plugin.learned_lens import LearnedLens
from nope_splat.refinement import joint as joint_adjustment
from nope_splat.refinement.joint import PhotometricSystem, adjust_jointly
from nope_splat.refinement.photometric import motion_on_plane, photometric_cost, pixel_equations, robust_noise
from nope_splat.refinement.surface_patches import SurfacePatches, SurfacePatchOptions
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, retract
from nope_splat.sfm.bundle_adjustment.solver import bundle_adjust
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.losses import reprojection_errors, track_2d_loss

LENS = (2.5, -1.5, -0.08, 0.02, 0.0, 0.0, 0.0, 0.0)
FREE = torch.tensor([[True] * 5 + [False] * 4])
NO_TERMS = (0.0,) * 4
"""The distortion coefficients k3, k4, p1 and p2, which are not learned."""


def moved(problem: BundleProblem, step: Tensor) -> BundleProblem:
    """Apply a step to the first camera's pose and intrinsics, principal points in focal lengths. (11,)."""
    cameras = torch.zeros(len(problem.T_camera_world), 6, dtype=torch.float64)
    cameras[0] = step[:6]
    intrinsics = torch.cat([step[6:], step.new_zeros(4)])
    intrinsics[1:3] *= FOCAL
    return retract(problem, cameras, torch.zeros_like(problem.points), intrinsics[None])


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_motion_through_a_lens_agrees_with_finite_differences(is_fisheye: bool) -> None:
    problem = wall(lens=LENS, is_fisheye=is_fisheye).problem

    def plane(step: Tensor) -> Tensor:
        now = moved(problem, step)
        return project(now.points, now.T_camera_world[:1], now.intrinsics[0], is_fisheye)[0] / FOCAL

    expected = torch.stack(
        [(plane(1e-6 * unit) - plane(-1e-6 * unit)) / 2e-6 for unit in torch.eye(11).double()], -1
    )
    T, terms = problem.T_camera_world[0], problem.intrinsics[0, 3:]
    in_camera = problem.points @ T[:3, :3].T + T[:3, 3]
    motion = motion_on_plane(in_camera, to_plane(in_camera, is_fisheye), is_fisheye, terms)
    torch.testing.assert_close(motion, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_gradient_of_the_cost_through_a_lens_agrees_with_finite_differences(is_fisheye: bool) -> None:
    scene = wall(lens=LENS, is_fisheye=is_fisheye)
    start = 1e-3 * torch.randn(11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def render_view(step: Tensor):
        now = moved(scene.problem, start + step)
        return scene.render_view_through_lens(0, now.T_camera_world[0], now.intrinsics[0])

    view = render_view(torch.zeros(11))
    noise = robust_noise(view)
    gradient = pixel_equations(view, noise).sum().gradient
    for unit in torch.eye(11).double():
        above, below = (
            photometric_cost(replace(render_view(sign * 1e-5 * unit), used=view.used), noise)
            for sign in (1, -1)
        )
        assert 2 * float(gradient @ unit) == pytest.approx(
            (above - below) / 2e-5, rel=0.05, abs=0.04 * float(gradient.abs().max())
        )


def test_joint_equations_by_intrinsics_agree_with_finite_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Principal points are in pixels here. Surface patches, which have a separate test, are almost fixed."""
    monkeypatch.setattr(joint_adjustment, "robust_noise", lambda view: 0.02)
    scene = wall(lens=LENS)
    start = scene.disturbed(
        degrees=0.01, shift=3e-4, log_focal=5e-4, lens=(0.05, 0.03, 1e-3, 1e-3, *NO_TERMS)
    )
    system = PhotometricSystem(
        scene.render_view_through_lens,
        0,
        SurfacePatches(start.points, SurfacePatchOptions(sigma=1e-4, ray_sigma=1e-3)),
    )
    _, matrix, gradient = system.equations(start)
    steps = torch.diag(torch.tensor([1e-5, 1e-3, 1e-3, 1e-5, 1e-4]).double())
    assert not gradient[29:].any()
    for derivative, column, step in zip(gradient[24:29], range(5), steps.diagonal(), strict=True):
        above, below = (
            system.equations(
                replace(start, intrinsics=start.intrinsics + sign * step * torch.eye(9)[column])
            )[0]
            for sign in (1, -1)
        )
        assert 2 * float(derivative) == pytest.approx((above - below) / (2 * float(step)), rel=0.04)
    torch.testing.assert_close(matrix, matrix.T)
    assert (torch.linalg.eigvalsh(matrix[24:29, 24:29]) > 0).all()
    assert (matrix[:24, 24:29].abs().amax(0) > 0).all()


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_perturbed_principal_point_and_distortion_are_recovered(is_fisheye: bool) -> None:
    """The result is better than from the few noisy tracks without images."""
    scene = wall(lens=LENS, num_views=6, is_fisheye=is_fisheye)
    start = replace(
        scene.disturbed(lens=(-2.0, 1.5, 0.06, 0.0, *NO_TERMS)),
        free_intrinsics=FREE,
        prior_mean=scene.problem.prior_mean * torch.tensor([1.0] + [0.0] * 8),
        prior_sigma=torch.tensor([[1.0, 4.0, 4.0, 0.1, 0.2] + [1.0] * 4]).double(),
    )
    joint = adjust_jointly(start, scene.render_view_through_lens, max_iterations=8).problem
    fixed = replace(start, free_poses=torch.arange(6) > 0)
    tracks = bundle_adjust(fixed).problem
    assert scene.error(joint) < 0.1 * min(scene.error(start), scene.error(tracks))
    intrinsics = joint.intrinsics[0, 1:]
    truth = torch.tensor(LENS, dtype=torch.float64)
    assert (intrinsics - truth)[:2].abs().max() < 0.1
    assert (intrinsics - truth)[2].abs() < 5e-3
    assert float(joint.intrinsics[0, 0].exp()) == pytest.approx(FOCAL, rel=2e-3)


def test_fixed_parameters_do_not_change() -> None:
    scene = wall(lens=LENS)
    free = torch.tensor([[True] * 3 + [False] * 6])
    start = replace(scene.disturbed(), free_intrinsics=free)
    intrinsics = adjust_jointly(start, scene.render_view_through_lens, max_iterations=3).problem.intrinsics
    assert torch.equal(intrinsics[:, 3:], start.intrinsics[:, 3:])
    assert not torch.equal(intrinsics[:, 1:3], start.intrinsics[:, 1:3])


def two_lenses(**learns: bool) -> LearnedLens:
    """Create two lenses, the second one with portrait and landscape images."""
    settings = {"learn_principal_point": True, "learn_distortion": True, "by_gradient": True}
    lens = LearnedLens(2, **settings | learns, device="cpu").double()
    scene = make_scene(portrait=False)
    cameras = (
        Camera(600.0, (4.0, -3.0), (-0.05, 0.01, *NO_TERMS)),
        Camera(500.0),
    )
    sizes, ids = scene.image_sizes.copy(), np.array([0, 0, 0, 1, 1, 1, 1])
    sizes[3] = sizes[3, ::-1]
    lens.set_base(replace(scene, cameras=cameras, camera_ids=ids, image_sizes=sizes))
    return lens


def test_lens_is_initialized_from_the_reconstruction_and_can_be_set() -> None:
    lens = two_lenses()
    start = torch.tensor([[-0.05, 0.01, *NO_TERMS], [0.0] * 6], dtype=torch.float64)
    torch.testing.assert_close(lens.lens().distortion, start, rtol=0, atol=1e-7)
    assert not lens.lens().shift.any()
    shift = torch.tensor([[2.0, 1.0], [3.0, 4.0]]).double()
    lens.set_lens(Lens(shift, start + 0.02))
    torch.testing.assert_close(lens.lens().distortion[:, :2], start[:, :2] + 0.02)
    assert not lens.lens().distortion[:, 2:].any()
    torch.testing.assert_close(lens.lens().shift[0], shift[0])
    assert not lens.lens().shift[1].any()  # it rotates with the camera
    assert lens.free_mask().tolist() == [[True] * 4 + [False] * 4, [False, False, True, True] + [False] * 4]
    first, second = lens.cameras((Camera(600.0, (4.0, -3.0)), Camera(500.0)))
    assert first.offset == pytest.approx((6.0, -2.0))
    assert first.distortion == pytest.approx((-0.03, 0.03, *NO_TERMS))
    assert second.offset == (0.0, 0.0)


def test_learned_principal_point_turns_with_the_photos() -> None:
    """All photos were turned upright by a quarter: the learned shift is that of upright pixels."""
    scene, turn = make_scene(portrait=False), np.array([[0.0, -1.0], [1.0, 0.0]])
    turned = replace(scene, upright_from_sensor=np.tile(turn, (len(scene.image_names), 1, 1)))
    lens = LearnedLens(1, True, True, True, "cpu")
    lens.set_base(turned)
    lens.set_lens(Lens(torch.tensor([[2.0, 1.0]]), torch.zeros(1, 6)))
    assert lens.free_mask()[:, :4].all()
    after = replace(turned, cameras=lens.cameras(turned.cameras))
    assert after.principal_points()[0] - turned.principal_points()[0] == pytest.approx([2.0, 1.0])
    differently = np.tile(turn, (len(scene.image_names), 1, 1))
    differently[0] = np.eye(2)
    lens.set_base(replace(turned, upright_from_sensor=differently))
    assert not lens.free_mask()[:, :2].any()


@pytest.mark.parametrize("parameter", ["principal_point", "distortion"])
def test_only_learned_parameters_change(parameter: str) -> None:
    lens = two_lenses(**{f"learn_{name}": name == parameter for name in ("principal_point", "distortion")})
    before = lens.lens()
    lens.set_lens(Lens(torch.ones(2, 2), torch.ones(2, 6)))
    after = lens.lens()
    assert torch.equal(after.shift, before.shift) == (parameter == "distortion")
    assert torch.equal(after.distortion, before.distortion) == (parameter == "principal_point")
    assert lens.param_groups().keys() == {f"{parameter}_opt"}
    assert (
        lens.free_mask().any(0).tolist()
        == [parameter == "principal_point"] * 2 + [parameter == "distortion"] * 2 + [False] * 4
    )


def test_prior_equals_that_of_bundle_adjustment() -> None:
    """Standard deviations are 2 % of the image size for the center, and 5 % at the corner for each term."""
    mean, sigma = two_lenses().prior()
    assert mean[0].tolist() == [-4.0, 3.0] + [0.0] * 6
    assert sigma[0, :2].tolist() == pytest.approx([0.02 * 640] * 2)
    corner = 400 / 600
    assert sigma[0, 2:4].tolist() == pytest.approx([0.05 / corner**2, 0.05 / corner**4])


def test_one_learning_rate_fits_all_intrinsics() -> None:
    """A unit of each distortion parameter moves the corner as far as a unit of log focal length."""
    lens = two_lenses()
    corner, step = torch.tensor([320.0, 240.0]).double() / 600, 1e-6
    still = distort(corner, lens.lens().distortion[0])
    for term in range(2):
        lens.distortion.data.zero_()
        lens.distortion.data[0, term] = step
        bent = distort(corner, lens.lens().distortion[0])
        assert float((bent - still).norm()) / step == pytest.approx(float(corner.norm()), rel=1e-6)
    lens.principal_point.data[0, 0] = step
    assert float(lens.lens().shift[0, 0]) == pytest.approx(600 * step)


def make_optimizer(refinement: JointRefinement | GradientRefinement | None = None) -> NopeCameraOptimizer:
    config = NopeCameraOptimizerConfig(
        mode="SE3",
        refinement=refinement or GradientRefinement(),
        optimize_principal_point=True,
        optimize_distortion=True,
    )
    return config.setup(num_cameras=2, device="cpu")


def test_checkpoint_round_trip() -> None:
    trained, restored = make_optimizer(), make_optimizer()
    assert trained.learned_lens is not None
    trained.learned_lens.focal.fill_(600.0)
    trained.learned_lens.size.copy_(torch.tensor([[640.0, 480.0]]))
    trained.learned_lens.principal_point.data.normal_()
    trained.learned_lens.distortion.data.normal_()
    restored.load_state_dict(trained.state_dict())
    before, after = trained.lens(), restored.lens()
    assert before is not None
    assert after is not None
    assert torch.equal(before.shift, after.shift)
    assert torch.equal(before.distortion, after.distortion)


def test_without_the_options_nothing_is_learned_or_stored() -> None:
    plain = NopeCameraOptimizerConfig(mode="SE3").setup(num_cameras=2, device="cpu")
    assert plain.lens() is None
    assert not any("lens" in name for name in plain.state_dict())


def test_lenses_can_be_optimized_without_poses() -> None:
    frozen = make_optimizer(JointRefinement())
    frozen.config.mode, frozen.config.optimize_focal = "off", False
    assert frozen.refinement_iterations(100)
    groups: dict = {}
    make_optimizer().get_param_groups(groups)
    assert {"principal_point_opt", "distortion_opt"} < set(groups)


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_track_loss_through_lenses(is_fisheye: bool) -> None:
    """Errors vanish at the truth, and gradients are correct elsewhere.

    The fisheye cameras are turned away, so that some points lie beside or behind them.
    """
    scene = track_scene(num_points=20)
    terms = torch.tensor([[-0.1, 0.05, 0.02, -0.01, 0.01, 0.02]]).double()
    truth = Lens(torch.tensor([[5.0, -3.0]]).double(), 0.1 * terms if is_fisheye else terms, is_fisheye)
    views = torch.zeros(len(scene.poses), dtype=torch.int64)
    T = world_to_camera(scene.poses)
    if is_fisheye:
        turn = torch.zeros(len(T), 6, dtype=torch.float64)
        turn[:, 1] = 1.3
        T = move_poses(T, turn)
    observations = scene.observations
    in_camera = transform(T[observations.view_ids], scene.points[observations.point_ids])
    assert (in_camera[:, 2] < 0).any() == torch.tensor(is_fisheye)
    xy = scene.focal * distort(to_plane(in_camera, is_fisheye), truth.distortion[0]) + truth.shift[0]
    observations = observations._replace(xy=xy)
    assert reprojection_errors(scene.points, T, scene.focal, observations, truth.select(views)).max() < 1e-9

    def loss(shift: Tensor, distortion: Tensor, points: Tensor, steps: Tensor, focal: Tensor) -> Tensor:
        lens = Lens(shift, distortion, is_fisheye).select(views)
        return track_2d_loss(points, move_poses(T, steps), focal, observations, lens)

    shift, distortion = (part.clone() + 0.01 for part in truth[:2])
    steps = torch.zeros(len(T), 6, dtype=torch.float64)
    start = shift, distortion, scene.points.clone(), steps, scene.focal.clone()
    assert torch.autograd.gradcheck(
        loss, [part.requires_grad_() for part in start], rtol=1e-4, fast_mode=True
    )


def test_points_that_a_fisheye_lens_cannot_show_are_ignored() -> None:
    scene = track_scene(num_points=20)
    views = torch.zeros(len(scene.poses), dtype=torch.int64)
    turn = torch.zeros(len(views), 6, dtype=torch.float64)
    turn[:, 1] = torch.pi
    T = move_poses(world_to_camera(scene.poses), turn)
    lens = Lens(torch.zeros(1, 2).double(), torch.zeros(1, 6).double(), True).select(views)
    errors = reprojection_errors(scene.points, T, scene.focal, scene.observations, lens)
    in_camera = transform(T[scene.observations.view_ids], scene.points[scene.observations.point_ids])
    hidden = in_camera[:, 2] < MIN_FISHEYE_COSINE * in_camera.norm(dim=1)
    assert 0 < hidden.sum() < len(hidden)
    assert torch.equal(errors == 0, hidden)
