"""Joint refinement of cameras, on a wall with exact images.

- Derivatives of projections and of the photometric cost match finite differences, also with marginalized
  surface patches, which remove the information about the global position.
- Pixels without a predictable motion are excluded; correlated pixels get a smaller weight.
- Perturbed cameras and focal length are recovered, better than from few noisy tracks alone.
- The joint cost decreases in every step, the result is reproducible, and fixed variables stay.
- Many accurate tracks outweigh wrong renderings.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fixtures.wall_scene import FOCAL, look_at_wall, wall
from scipy.spatial import KDTree

from nope_splat.geometry.projection import LensModel
from nope_splat.refinement import joint as joint_adjustment
from nope_splat.refinement.joint import PhotometricSystem, adjust_jointly
from nope_splat.refinement.photometric import (
    RenderedView,
    compare,
    information_weight,
    motion_on_plane,
    photometric_cost,
    pixel_equations,
    robust_noise,
    usable_pixels,
)
from nope_splat.refinement.surface_patches import SurfacePatches, SurfacePatchOptions, nearest_centers
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, reprojection_residuals, retract
from nope_splat.sfm.bundle_adjustment.solver import bundle_adjust
from nope_splat.splatting.lens import Rendering


def moved(problem: BundleProblem, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a step of pose and log focal length (7,) to the first camera."""
    cameras = torch.zeros(len(problem.T_camera_world), 6, dtype=torch.float64)
    cameras[0] = step[:6]
    intrinsics = torch.cat([step[6:], step.new_zeros(8)])[None]
    result = retract(problem, cameras, torch.zeros_like(problem.points), intrinsics)
    return result.T_camera_world[0], result.intrinsics[0, 0].exp()


def test_motion_matches_finite_differences() -> None:
    problem = wall().problem

    def project(step: torch.Tensor) -> torch.Tensor:
        pose, focal = moved(problem, step)
        points_camera = problem.points @ pose[:3, :3].T + pose[:3, 3]
        return focal / FOCAL * points_camera[:, :2] / points_camera[:, 2:]

    zero = torch.zeros(7, dtype=torch.float64)
    T = problem.T_camera_world[0]
    points_camera = problem.points @ T[:3, :3].T + T[:3, 3]
    expected = torch.stack(
        [(project(1e-6 * unit) - project(-1e-6 * unit)) / 2e-6 for unit in torch.eye(7).double()], -1
    )
    torch.testing.assert_close(motion_on_plane(points_camera, project(zero)), expected, rtol=1e-6, atol=1e-7)


def test_gradient_of_the_cost_matches_finite_differences() -> None:
    scene = wall()
    generator = torch.Generator().manual_seed(3)
    start = 1e-3 * torch.randn(7, generator=generator, dtype=torch.float64)
    pose, focal = moved(scene.problem, start)
    view = look_at_wall(pose, focal, scene.images[0])
    noise = robust_noise(view)
    equations = pixel_equations(view, noise).sum()

    def cost(step: torch.Tensor) -> float:
        pose, focal = moved(scene.problem, start + step)
        return photometric_cost(replace(look_at_wall(pose, focal, scene.images[0]), used=view.used), noise)

    for unit in torch.eye(7).double():
        slope = (cost(1e-5 * unit) - cost(-1e-5 * unit)) / 2e-5
        assert 2 * float(equations.gradient @ unit) == pytest.approx(
            slope, rel=0.05, abs=0.02 * float(equations.gradient.abs().max())
        )


def test_pixels_beside_a_fisheye_camera_are_not_compared() -> None:
    """Their depth along the optical axis is undefined: with this focal length, those beyond 30.7 pixels."""
    shape = 64, 80
    rendering = Rendering(torch.zeros(*shape, 3), torch.ones(*shape, 1), torch.ones(*shape, 1), {})
    K = torch.tensor([[20.0, 0, 40], [0, 20, 32], [0, 0, 1]])
    view = compare(rendering, torch.zeros(*shape, 3), None, K, LensModel(None, True))
    row, column = torch.nonzero(view.used, as_tuple=True)
    radius = torch.stack([column + 0.5 - 40, row + 0.5 - 32]).norm(dim=0)
    assert 30 < radius.max() < 20 * torch.pi * 88 / 180
    assert view.rays().isfinite().all()
    assert compare(rendering, torch.zeros(*shape, 3), None, K, None).used[1:-1, 1:-1].all()


def test_pixels_without_a_predictable_motion_are_excluded() -> None:
    depth, opacity = torch.ones(20, 30), torch.ones(20, 30)
    depth[:, 15:] = 2.0
    opacity[:, :3] = 0.5
    mask = torch.ones(20, 30, dtype=torch.bool)
    mask[10] = False
    used = usable_pixels(depth, opacity, mask)
    columns = [*range(3, 14), *range(16, 29)]
    assert used[[0, 10, 19]].any() == torch.tensor(False)
    assert torch.nonzero(used[5]).squeeze(-1).tolist() == columns


def test_correlated_pixels_get_a_smaller_weight() -> None:
    """Noise that is constant in blocks of 4 by 4 pixels reduces the information to about a sixteenth."""
    view = look_at_wall(wall().problem.T_camera_world[0], FOCAL)
    generator = torch.Generator().manual_seed(0)
    independent = 0.05 * torch.randn(72, 96, 1, generator=generator, dtype=torch.float64).expand(-1, -1, 3)
    dependent = independent[:18, :24].repeat_interleave(4, 0).repeat_interleave(4, 1)
    weights = []
    for noise in (independent, dependent):
        noisy = replace(view, image=view.image + noise)
        weights.append(information_weight(pixel_equations(noisy, robust_noise(noisy)), noisy.used))
    assert 0.5 < weights[0] < 1.5 * 3  # the noise is the same in the three channels
    assert weights[1] < 0.3 * weights[0]


def test_weight_of_few_pixels_is_zero() -> None:
    view = look_at_wall(wall().problem.T_camera_world[0], FOCAL)
    corner = torch.zeros_like(view.used)
    corner[4:8, 4:8] = True
    few = replace(view, used=corner, image=view.image + 0.01)
    assert information_weight(pixel_equations(few, robust_noise(few)), few.used) == 0


def test_gradient_with_eliminated_patches_matches_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance covers the error of pixel differences; the noise is larger than all residuals."""
    monkeypatch.setattr(joint_adjustment, "robust_noise", lambda view: 0.02)
    scene = wall()
    start = scene.disturbed(degrees=0.01, shift=3e-4, log_focal=5e-4)
    system = PhotometricSystem(scene.render_view, 0, SurfacePatches(start.points))
    _, _, gradient = system.equations(start)

    def cost(step: torch.Tensor) -> float:
        d_poses, d_intrinsics = step[:24].view(4, 6), step[24:].view(1, 9)
        return system.equations(retract(start, d_poses, torch.zeros_like(start.points), d_intrinsics))[0]

    for row in (0, 5, 9, 22, 24):
        unit = 1e-5 * torch.eye(33).double()[row]
        slope = (cost(unit) - cost(-unit)) / 2e-5
        assert 2 * float(gradient[row]) == pytest.approx(
            slope, rel=0.2, abs=0.02 * float(gradient[:24].abs().max())
        )


def test_free_patches_leave_the_global_position_undetermined() -> None:
    """Images determine the relative poses of cameras, but not their common position."""
    scene = wall()
    generator = torch.Generator().manual_seed(2)
    images = [image + 0.02 * torch.randn(image.shape, generator=generator).double() for image in scene.images]
    render_view, patches = replace(scene, images=images).render_view, SurfacePatches(scene.problem.points)
    soft = PhotometricSystem(render_view, 0, patches).equations(scene.problem)[1]
    patches = SurfacePatches(scene.problem.points, SurfacePatchOptions(sigma=1e-6, ray_sigma=1e-6))
    fixed = PhotometricSystem(render_view, 0, patches).equations(scene.problem)[1]
    shift = torch.zeros(4, 6, dtype=torch.float64)
    shift[:, 3:] = scene.problem.T_camera_world[:, :3, 0]  # all cameras along the world's x
    first_only = torch.where(torch.arange(4)[:, None] == 0, shift, 0.0)

    def information(matrix: torch.Tensor, motion: torch.Tensor) -> float:
        return float(motion.flatten() @ matrix[:24, :24] @ motion.flatten())

    assert information(soft, shift) < 0.05 * information(fixed, shift)
    assert information(soft, first_only) > 0.3 * information(fixed, first_only)


def test_single_precision_images_suffice() -> None:
    """On a flat, finely textured wall, eliminating the patches cancels most of the information."""
    problem, generator = wall(num_points=1000, num_views=1).problem, torch.Generator().manual_seed(0)
    uniform = torch.rand(1000, 3, generator=generator).double() * torch.tensor([1, 0.75, 0]).double()
    points = uniform + torch.tensor([-0.5, -0.375, 1]).double()
    problem = replace(problem, T_camera_world=torch.eye(4).double()[None], points=points)
    painted, noise = torch.rand(2, 240, 320, 3, generator=generator)
    distance, focal, center = torch.ones(240, 320), torch.full((2,), 320.0), torch.tensor([160.0, 120.0])
    used = usable_pixels(distance, distance)
    single = RenderedView(painted, painted + 0.1 * noise, distance, used, focal, center)
    parts = ("rendered", "image", "depth", "focal", "center")
    double = replace(single, **{name: getattr(single, name).double() for name in parts})
    single_matrix, double_matrix = (
        PhotometricSystem(lambda *_, view=view: view, 0, SurfacePatches(points)).equations(problem)[1]
        for view in (single, double)
    )
    torch.testing.assert_close(
        single_matrix, double_matrix, rtol=0, atol=1e-3 * float(double_matrix.abs().max())
    )


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_recovers_perturbed_cameras_better_than_few_tracks_do(is_fisheye: bool) -> None:
    scene = wall(is_fisheye=is_fisheye)
    start = scene.disturbed()
    joint = adjust_jointly(start, scene.render_view, max_iterations=10).problem
    tracks = bundle_adjust(replace(start, free_poses=torch.tensor([False, True, True, True]))).problem
    assert scene.error(joint) < 0.1 * min(scene.error(start), scene.error(tracks))
    assert float(joint.intrinsics[0, 0].exp()) == pytest.approx(FOCAL, rel=2e-3)


def test_two_cameras_get_separate_focal_lengths() -> None:
    scene = wall()
    start = scene.disturbed(log_focal=0.0)
    twice = {
        name: getattr(start, name).repeat(2, 1)
        for name in ("intrinsics", "free_intrinsics", "prior_mean", "prior_sigma")
    }
    start = replace(start, camera_ids=torch.tensor([0, 1, 0, 1]), **twice)
    start.intrinsics[:, 0] += torch.tensor([0.015, -0.01])
    intrinsics = adjust_jointly(start, scene.render_view, max_iterations=10).problem.intrinsics
    torch.testing.assert_close(intrinsics[:, 0].exp(), torch.full((2,), FOCAL).double(), rtol=2e-3, atol=0)
    assert intrinsics[0, 0] != intrinsics[1, 0]


def test_cost_decreases_and_result_is_reproducible() -> None:
    scene = wall()
    first, second = (adjust_jointly(scene.disturbed(), scene.render_view) for _ in range(2))
    assert first.costs
    assert all(after < before for before, after in first.costs)
    assert 0.5 < first.photometric_share < 1 + 1e-9  # few, noisy tracks
    assert torch.equal(first.problem.T_camera_world, second.problem.T_camera_world)
    assert first.costs == second.costs


@pytest.mark.parametrize("poses", [True, False])
def test_fixed_variables_stay(poses: bool) -> None:
    scene = wall()
    start = scene.disturbed()
    start = replace(
        start,
        free_poses=torch.full((4,), poses),
        free_intrinsics=torch.tensor([[not poses, *[False] * 8]]),
    )
    result = adjust_jointly(start, scene.render_view).problem
    assert torch.equal(result.T_camera_world, start.T_camera_world) != poses
    assert torch.equal(result.intrinsics, start.intrinsics) == poses


def test_accurate_tracks_outweigh_wrong_renderings() -> None:
    """The images are random, and a hundred accurate tracks contradict them."""
    scene = wall(num_points=100, noise=0.02)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(72, 96, 3, generator=generator, dtype=torch.float64) for _ in scene.images]
    result = adjust_jointly(scene.problem, replace(scene, images=images).render_view)
    residuals, _ = reprojection_residuals(replace(result.problem, sigma=scene.problem.sigma))
    assert residuals.square().mean().sqrt() < 0.02
    assert result.photometric_share < 0.1


def test_brute_force_finds_the_same_centers_as_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nope_splat.refinement.surface_patches.MAX_DISTANCES", 1000
    )  # several chunks, the last one smaller
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(90, 3, generator=generator)
    points = 100 + torch.randn(333, 3, generator=generator)  # far off, where products would cancel
    _, expected = KDTree((100 + centers).numpy()).query(points.numpy())
    assert nearest_centers(points, 100 + centers).tolist() == expected.tolist()
