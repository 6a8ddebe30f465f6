"""Bundle adjustment: exact derivatives, exact elimination, convergence, and fixed variables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.synthetic import make_scene

from nope_splat.geometry.camera import NO_DISTORTION, Camera
from nope_splat.geometry.distortion import distort
from nope_splat.geometry.rigid import invert
from nope_splat.sfm.bundle_adjustment.problem import (
    BundleProblem,
    linearize,
    reprojection_residuals,
    retract,
    robust_cost,
)
from nope_splat.sfm.bundle_adjustment.schur import NormalEquations, SchurStructure
from nope_splat.sfm.bundle_adjustment.significance import score_probabilities
from nope_splat.sfm.bundle_adjustment.solver import bundle_adjust, intrinsics_covariance, sample_poses


def true_problem(
    noise: float = 0.0,
    num_images: int = 5,
    num_points: int = 60,
    offset: tuple[float, float] = (0.0, 0.0),
    distortion: tuple[float, ...] = NO_DISTORTION,
    is_fisheye: bool = False,
) -> BundleProblem:
    """Create a problem at its solution, up to the noise of the observations."""
    camera = Camera(700.0, offset, distortion, is_fisheye)
    scene = make_scene(num_images, num_points, noise=noise, camera=camera)
    point_ids = np.concatenate(scene.points_of_keypoints)
    image_ids = np.repeat(np.arange(num_images), [len(ids) for ids in scene.points_of_keypoints])
    xy = np.concatenate([keypoints.xy for keypoints in scene.keypoints]) - np.array(scene.size) / 2
    free = np.arange(num_images) > 0
    return BundleProblem(
        T_camera_world=torch.tensor(invert(scene.T_world_camera)),
        points=torch.tensor(scene.points),
        intrinsics=torch.tensor([[np.log(camera.focal), *offset, *distortion]]),
        camera_ids=torch.zeros(num_images, dtype=torch.int64),
        upright_from_sensor=torch.eye(2, dtype=torch.float64).expand(num_images, 2, 2),
        image_ids=torch.tensor(image_ids),
        point_ids=torch.tensor(point_ids),
        xy=torch.tensor(xy),
        sigma=torch.ones(len(xy), dtype=torch.float64),
        free_poses=torch.tensor(free),
        free_intrinsics=torch.ones(1, 9, dtype=torch.bool),
        prior_mean=torch.tensor([[np.log(camera.focal), *8 * [0.0]]]),
        prior_sigma=torch.tensor([[0.5, 13.0, 13.0, 0.2, 0.7, 2.0, 4.0, 0.01, 0.01]]).double(),
        is_fisheye=torch.tensor([True]) if is_fisheye else None,
    )


def with_two_cameras(problem: BundleProblem) -> BundleProblem:
    """Assign every other image to a second camera."""
    twice = {
        name: getattr(problem, name).repeat(2, 1)
        for name in ("intrinsics", "free_intrinsics", "prior_mean", "prior_sigma")
    }
    if problem.is_fisheye is not None:
        twice["is_fisheye"] = torch.cat([problem.is_fisheye, ~problem.is_fisheye])
    return replace(problem, camera_ids=torch.arange(len(problem.T_camera_world)) % 2, **twice)


def perturbed(problem: BundleProblem, size: float = 0.02, seed: int = 0) -> BundleProblem:
    """Perturb the free poses, the points and the focal length."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return size * torch.randn(*shape, generator=generator, dtype=torch.float64)

    d_poses = noise(len(problem.T_camera_world), 6) * problem.free_poses[:, None]
    d_intrinsics = torch.zeros_like(problem.intrinsics)
    d_intrinsics[:, 0] = 3 * size
    return retract(problem, d_poses, noise(*problem.points.shape), d_intrinsics)


def num_variables(problem: BundleProblem) -> int:
    return 6 * len(problem.T_camera_world) + 3 * len(problem.points) + problem.intrinsics.numel()


def step_of(problem: BundleProblem, step: torch.Tensor) -> BundleProblem:
    """Apply a flat increment of poses, points and intrinsics."""
    cameras, points, intrinsics = step.tensor_split(
        [6 * len(problem.T_camera_world), 6 * len(problem.T_camera_world) + 3 * len(problem.points)]
    )
    return retract(problem, cameras.view(-1, 6), points.view(-1, 3), intrinsics.view_as(problem.intrinsics))


def dense_jacobian(problem: BundleProblem) -> torch.Tensor:
    """Assemble all analytic derivatives in one matrix. (2 O, variables)."""
    at = linearize(problem)
    num_observations, num_cameras = len(problem.xy), len(problem.T_camera_world)
    jacobian = torch.zeros(num_observations, 2, num_variables(problem), dtype=torch.float64)
    rows = torch.arange(num_observations)
    for k in range(6):
        jacobian[rows, :, 6 * problem.image_ids + k] = at.by_pose[:, :, k]
    for k in range(3):
        jacobian[rows, :, 6 * num_cameras + 3 * problem.point_ids + k] = at.by_point[:, :, k]
    first = num_variables(problem) - problem.intrinsics.numel()
    for k in range(9):
        jacobian[rows, :, first + 9 * problem.camera_ids[problem.image_ids] + k] = at.by_intrinsics[:, :, k]
    return jacobian.view(2 * num_observations, -1)


@pytest.mark.parametrize(
    ("distortion", "is_fisheye"),
    [((-0.1, 0.2, 0.0, 0.0, 1e-2, -2e-2), False), ((0.02, -0.01, 0.003, -0.001, 0.0, 0.0), True)],
    ids=["opencv", "fisheye"],
)
def test_jacobians_match_finite_differences(distortion: tuple[float, ...], is_fisheye: bool) -> None:
    scene = true_problem(0.0, 3, 8, offset=(5.0, -3.0), distortion=distortion, is_fisheye=is_fisheye)
    problem = with_two_cameras(perturbed(scene))
    quarter, mirror = torch.tensor([[[0.0, -1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]]]).double()
    problem = replace(
        problem,
        sigma=torch.linspace(0.5, 2.0, len(problem.xy), dtype=torch.float64),
        upright_from_sensor=torch.stack([quarter, mirror, torch.zeros_like(mirror)]),
    )
    jacobian = dense_jacobian(problem)
    h = 1e-6
    for k, direction in enumerate(torch.eye(num_variables(problem), dtype=torch.float64)):
        above, _ = reprojection_residuals(step_of(problem, h * direction))
        below, _ = reprojection_residuals(step_of(problem, -h * direction))
        numeric = ((above - below) / (2 * h)).flatten()
        torch.testing.assert_close(jacobian[:, k], numeric, rtol=1e-5, atol=1e-4)


def test_schur_complement_solves_the_full_normal_equations() -> None:
    problem = with_two_cameras(perturbed(replace(true_problem(num_images=4, num_points=25), huber=3.0)))
    damping = 1e-3
    at = linearize(problem)
    weight = (problem.huber / at.residuals.norm(dim=1)).clamp(max=1.0).repeat_interleave(2)
    jacobian = dense_jacobian(problem)
    count = problem.intrinsics.numel()
    prior = torch.zeros(num_variables(problem), dtype=torch.float64)
    prior[-count:] = problem.prior_sigma.flatten() ** -2
    hessian = (jacobian.T * weight) @ jacobian + prior.diag()
    gradient = (jacobian.T * weight) @ at.residuals.flatten()
    gradient[-count:] += prior[-count:] * (problem.intrinsics - problem.prior_mean).flatten()
    free = torch.ones(num_variables(problem), dtype=torch.bool)
    free[: 6 * len(problem.T_camera_world)] = problem.free_poses.repeat_interleave(6)
    damped = hessian + damping * hessian.diagonal().diag()
    expected = torch.zeros_like(gradient)
    expected[free] = -torch.linalg.solve(damped[free][:, free], gradient[free])

    step = NormalEquations(problem, at, SchurStructure(problem)).solve(damping)
    assert step is not None
    d_poses, d_points, d_intrinsics = step
    solved = torch.cat([d_poses.flatten(), d_points.flatten(), d_intrinsics.flatten()])
    torch.testing.assert_close(solved, expected, rtol=1e-6, atol=1e-9)


def test_adjustment_recovers_a_perturbed_scene() -> None:
    truth = true_problem(offset=(6.0, -4.0), distortion=(-0.08, 0.05, 0.0, 0.0, 0.0, 0.0))
    radial_only = torch.tensor([[True, True, True, True, True, False, False, False, False]])
    truth = replace(truth, prior_sigma=1e4 * truth.prior_sigma, free_intrinsics=radial_only)
    result = bundle_adjust(perturbed(truth), max_iterations=50, tolerance=1e-12)
    assert result.cost < 1e-3 < result.initial_cost
    intrinsics = result.problem.intrinsics[0]
    assert intrinsics[0].exp().item() == pytest.approx(700, rel=1e-4)
    torch.testing.assert_close(intrinsics[1:3], truth.intrinsics[0, 1:3], atol=0.1, rtol=0)
    torch.testing.assert_close(intrinsics[3:], truth.intrinsics[0, 3:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_adjustment_recovers_all_terms_of_a_lens(is_fisheye: bool) -> None:
    terms = (0.02, -0.01, 0.003, 0.0, 0.0, 0.0) if is_fisheye else (-0.1, 0.03, 0.0, 0.0, 1e-3, -2e-3)
    truth = true_problem(num_points=200, distortion=terms, is_fisheye=is_fisheye)
    model = [True, True, True, True, False, False] if is_fisheye else [True, True, False, False, True, True]
    free = torch.tensor([[True, False, False, *model]])
    truth = replace(truth, prior_sigma=1e4 * truth.prior_sigma, free_intrinsics=free)
    start = replace(truth, intrinsics=torch.cat([truth.intrinsics[:, :3], torch.zeros(1, 6).double()], 1))
    result = bundle_adjust(perturbed(start, 0.005), max_iterations=100, tolerance=1e-14)
    assert result.cost < 1e-4
    plane = torch.tensor([[0.3, 0.2], [-0.4, 0.1]], dtype=torch.float64)
    expected, found = (
        distort(plane, terms) for terms in (truth.intrinsics[0, 3:], result.problem.intrinsics[0, 3:])
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_only_refined_intrinsics_have_derivatives() -> None:
    problem = true_problem()
    focal_only = replace(problem, free_intrinsics=torch.arange(9)[None] == 0)
    assert linearize(focal_only).by_intrinsics.shape[-1] == 1
    fixed = replace(problem, free_intrinsics=torch.zeros(1, 9, dtype=torch.bool))
    assert bundle_adjust(perturbed(fixed)).problem.intrinsics[0, 1:].tolist() == 8 * [0.0]


def test_tangential_distortion_is_significant_only_if_it_exists() -> None:
    tested = torch.arange(9)[None] >= 7
    fixed = ~tested & (torch.arange(9)[None] < 5)
    probabilities = []
    for tangential in (0.0, 2e-3):
        truth = true_problem(0.1, 6, 300, distortion=(-0.05, 0.0, 0.0, 0.0, tangential, 0.0))
        result = bundle_adjust(
            replace(truth, intrinsics=truth.intrinsics * ~tested, free_intrinsics=fixed), 50, 1e-10
        )
        probabilities.append(float(score_probabilities(result.problem, result.noise, tested)))
    assert probabilities[0] > 1e-3
    assert probabilities[1] < 1e-6


def test_prior_constrains_undetermined_intrinsics() -> None:
    """With two images of few points, the offset stays near its prior despite noisy observations."""
    result = bundle_adjust(perturbed(true_problem(noise=1.0, num_images=2, num_points=12)), max_iterations=50)
    assert result.problem.intrinsics[0, 1:3].norm() < 13.0


def test_huber_loss_is_robust_to_outliers() -> None:
    truth = true_problem(noise=0.2, num_points=200)
    xy = truth.xy.clone()
    xy[::20] += 40.0
    result = bundle_adjust(replace(perturbed(truth), xy=xy), max_iterations=50)
    assert result.problem.intrinsics[0, 0].exp().item() == pytest.approx(700, rel=0.01)


def test_precise_observations_outweigh_noisy_ones() -> None:
    """With noise of two levels, the true `sigma` of each observation reduces the error."""
    truth = true_problem(noise=0.1, num_points=200)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.rand(len(truth.xy), generator=generator) < 0.5
    noise = torch.randn(truth.xy.shape, generator=generator, dtype=torch.float64)
    truth = replace(truth, xy=truth.xy + noisy[:, None] * noise)
    informed = replace(truth, sigma=torch.where(noisy, 1.0, 0.1).double())

    def error(problem: BundleProblem) -> float:
        intrinsics = bundle_adjust(perturbed(problem), max_iterations=50).problem
        return float((intrinsics.intrinsics - truth.intrinsics)[0, 0].abs())

    assert error(informed) < 0.5 * error(truth)


def test_fixed_poses_and_intrinsics_stay() -> None:
    start = perturbed(true_problem(noise=0.3))
    fixed = replace(
        start,
        free_poses=torch.tensor([False, True, False, True, True]),
        free_intrinsics=torch.tensor([[False, True, True, *6 * [False]]]),
    )
    result = bundle_adjust(fixed)
    moved = (result.problem.T_camera_world - start.T_camera_world).abs().amax((1, 2)) > 0
    assert moved.tolist() == fixed.free_poses.tolist()
    assert result.problem.intrinsics[0, 0] == start.intrinsics[0, 0]
    assert result.cost < result.initial_cost


def test_result_does_not_depend_on_the_order_of_observations() -> None:
    problem = perturbed(true_problem(noise=0.3))
    order = torch.randperm(len(problem.xy), generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        problem,
        xy=problem.xy[order],
        sigma=problem.sigma[order],
        image_ids=problem.image_ids[order],
        point_ids=problem.point_ids[order],
    )
    first, second = bundle_adjust(problem), bundle_adjust(shuffled)
    torch.testing.assert_close(first.problem.points, second.problem.points, rtol=1e-6, atol=1e-6)


def test_points_behind_a_camera_have_a_cost_but_no_derivatives() -> None:
    problem = true_problem()
    points = problem.points.clone()
    camera = problem.T_camera_world[0]
    points[0] = camera[:3, :3].T @ (torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64) - camera[:3, 3])
    problem = replace(problem, points=points)
    at = linearize(problem)
    behind = ~at.visible
    assert behind.any()
    for jacobian in (at.residuals, at.by_pose, at.by_point):
        assert jacobian[behind].abs().max() == 0
    residuals, _ = reprojection_residuals(problem)
    assert np.isfinite(robust_cost(problem, residuals))


def test_covariance_of_the_principal_point_shrinks_with_more_observations() -> None:
    radial_only = torch.arange(9)[None] < 5
    good = intrinsics_covariance(replace(true_problem(num_points=300), free_intrinsics=radial_only))
    poor = intrinsics_covariance(
        replace(true_problem(num_images=2, num_points=12), free_intrinsics=radial_only)
    )
    assert good is not None
    assert poor is not None
    assert good[1, 1] < 0.1 * 13.0**2 < poor[1, 1]


def test_sampled_poses_differ_as_much_as_adjusted_ones() -> None:
    """The spread of the sampled poses is that of adjustments to observations with other noise."""
    problem = bundle_adjust(true_problem(num_points=100)).problem
    noise, rng = 0.5, torch.Generator().manual_seed(0)
    samples = sample_poses(problem, noise, 200)
    assert samples is not None
    adjusted = []
    for _ in range(20):
        noisy = problem.xy + noise * torch.randn(problem.xy.shape, generator=rng, dtype=torch.float64)
        adjusted.append(bundle_adjust(replace(problem, xy=noisy)).problem.T_camera_world)
    expected, found = torch.stack(adjusted), samples
    torch.testing.assert_close(found[:, 0], problem.T_camera_world[:1].expand(200, 4, 4))
    rotation_ratio = found[:, 1:, :3, :3].std(0).norm() / expected[:, 1:, :3, :3].std(0).norm()
    assert 0.7 < rotation_ratio < 1.4


def test_noise_is_estimated_with_its_degrees_of_freedom() -> None:
    result = bundle_adjust(true_problem(noise=0.3, num_points=300))
    assert result.noise == pytest.approx(0.3, rel=0.1)
