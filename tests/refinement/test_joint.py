"""The joint second-order adjustment of cameras, on a wall whose pictures are exact.

- Derivatives of pixel positions and of the photometric cost agree with finite differences, also of the cost
  that displaced patches of the surface leave; they take what only landmarks could say.
- Pixels that do not move as predicted are left out; dependent pixels are worth less than they are many.
- Disturbed cameras and focal length are recovered, better than from few noisy tracks alone.
- The joint cost falls with every step, the same start gives the same end, and what is fixed stays.
- Good tracks outvote renderings that are wrong.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fixtures.wall_scene import FOCAL, look_at_wall, wall
from scipy.spatial import KDTree

from nope_splat.refinement import joint as joint_adjustment
from nope_splat.refinement import surface_patches
from nope_splat.refinement.joint import PhotometricSystem, adjust_jointly
from nope_splat.refinement.photometric import (
    RenderedView,
    information_weight,
    motion_on_plane,
    photometric_cost,
    pixel_equations,
    robust_noise,
    usable_pixels,
)
from nope_splat.refinement.surface_patches import SurfacePatches, nearest
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, reprojection_residuals, retract
from nope_splat.sfm.bundle_adjustment.solver import adjust


def moved(problem: BundleProblem, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pose and focal length of the first camera after a step of pose and log focal. (7,)."""
    cameras = torch.zeros(len(problem.T_camera_world), 6, dtype=torch.float64)
    cameras[0] = step[:6]
    intrinsics = torch.cat([step[6:], step.new_zeros(4)])[None]
    result = retract(problem, cameras, torch.zeros_like(problem.points), intrinsics)
    return result.T_camera_world[0], result.intrinsics[0, 0].exp()


def test_motion_agrees_with_finite_differences() -> None:
    problem = wall().problem

    def project(step: torch.Tensor) -> torch.Tensor:
        pose, focal = moved(problem, step)
        in_camera = problem.points @ pose[:3, :3].T + pose[:3, 3]
        return focal / FOCAL * in_camera[:, :2] / in_camera[:, 2:]

    zero = torch.zeros(7, dtype=torch.float64)
    depth = (problem.points @ problem.T_camera_world[0, :3, :3].T + problem.T_camera_world[0, :3, 3])[:, 2]
    expected = torch.stack(
        [(project(1e-6 * unit) - project(-1e-6 * unit)) / 2e-6 for unit in torch.eye(7).double()], -1
    )
    torch.testing.assert_close(motion_on_plane(project(zero), depth), expected, rtol=1e-6, atol=1e-7)


def test_gradient_of_the_cost_agrees_with_finite_differences() -> None:
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


def test_pixels_without_a_predictable_motion_are_left_out() -> None:
    depth, opacity = torch.ones(20, 30), torch.ones(20, 30)
    depth[:, 15:] = 2.0
    opacity[:, :3] = 0.5
    mask = torch.ones(20, 30, dtype=torch.bool)
    mask[10] = False
    used = usable_pixels(depth, opacity, mask)
    columns = [*range(3, 14), *range(16, 29)]
    assert used[[0, 10, 19]].any() == torch.tensor(False)
    assert torch.nonzero(used[5]).squeeze(-1).tolist() == columns


def test_dependent_pixels_count_for_less() -> None:
    """The same noise in blocks of 4 by 4 pixels leaves about a sixteenth of the information."""
    view = look_at_wall(wall().problem.T_camera_world[0], FOCAL)
    generator = torch.Generator().manual_seed(0)
    independent = 0.05 * torch.randn(72, 96, 1, generator=generator, dtype=torch.float64).expand(-1, -1, 3)
    dependent = independent[:18, :24].repeat_interleave(4, 0).repeat_interleave(4, 1)
    worth = []
    for noise in (independent, dependent):
        noisy = replace(view, image=view.image + noise)
        worth.append(information_weight(pixel_equations(noisy, robust_noise(noisy)), noisy.used))
    assert 0.5 < worth[0] < 1.5 * 3  # one noise in three channels, of which the sum is taken as the mean
    assert worth[1] < 0.3 * worth[0]


def test_a_few_pixels_are_worth_nothing() -> None:
    view = look_at_wall(wall().problem.T_camera_world[0], FOCAL)
    corner = torch.zeros_like(view.used)
    corner[4:8, 4:8] = True
    few = replace(view, used=corner, image=view.image + 0.01)
    assert information_weight(pixel_equations(few, robust_noise(few)), few.used) == 0


def test_gradient_that_patches_leave_agrees_with_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as differences of neighboring pixels are derivatives, with a noise that no residual exceeds."""
    monkeypatch.setattr(joint_adjustment, "robust_noise", lambda view: 0.02)
    scene = wall()
    start = scene.disturbed(degrees=0.01, shift=3e-4, log_focal=5e-4)
    system = PhotometricSystem(scene.look, 0, SurfacePatches(start.points))
    _, _, gradient = system.equations(start)

    def cost(step: torch.Tensor) -> float:
        d_poses, d_intrinsics = step[:24].view(4, 6), step[24:].view(1, 5)
        return system.equations(retract(start, d_poses, torch.zeros_like(start.points), d_intrinsics))[0]

    for row in (0, 5, 9, 22, 24):
        unit = 1e-5 * torch.eye(29).double()[row]
        slope = (cost(unit) - cost(-unit)) / 2e-5
        assert 2 * float(gradient[row]) == pytest.approx(
            slope, rel=0.2, abs=0.02 * float(gradient[:24].abs().max())
        )


def test_the_surface_is_no_landmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole is, images cannot say; where one camera is among the others, they can."""
    scene = wall()
    generator = torch.Generator().manual_seed(2)
    images = [image + 0.02 * torch.randn(image.shape, generator=generator).double() for image in scene.images]
    look, patches = replace(scene, images=images).look, SurfacePatches(scene.problem.points)
    soft = PhotometricSystem(look, 0, patches).equations(scene.problem)[1]
    monkeypatch.setattr(surface_patches, "SIGMA", 1e-6)
    monkeypatch.setattr(surface_patches, "RAY_SIGMA", 1e-6)
    fixed = PhotometricSystem(look, 0, patches).equations(scene.problem)[1]
    shift = torch.zeros(4, 6, dtype=torch.float64)
    shift[:, 3:] = scene.problem.T_camera_world[:, :3, 0]  # all cameras along the world's x
    alone = torch.where(torch.arange(4)[:, None] == 0, shift, 0.0)

    def information(matrix: torch.Tensor, motion: torch.Tensor) -> float:
        return float(motion.flatten() @ matrix[:24, :24] @ motion.flatten())

    assert information(soft, shift) < 0.05 * information(fixed, shift)
    assert information(soft, alone) > 0.3 * information(fixed, alone)


def test_images_in_single_precision_suffice() -> None:
    """Also where patches take nearly all that pixels say: on a flat, finely painted wall."""
    problem, generator = wall(num_points=1000, num_views=1).problem, torch.Generator().manual_seed(0)
    places = torch.rand(1000, 3, generator=generator).double() * torch.tensor([1, 0.75, 0]).double()
    points = places + torch.tensor([-0.5, -0.375, 1]).double()
    problem = replace(problem, T_camera_world=torch.eye(4).double()[None], points=points)
    painted, noise = torch.rand(2, 240, 320, 3, generator=generator)
    distance, focal, center = torch.ones(240, 320), torch.full((2,), 320.0), torch.tensor([160.0, 120.0])
    used = usable_pixels(distance, distance)
    single = RenderedView(painted, painted + 0.1 * noise, distance, used, focal, center)
    parts = ("rendered", "image", "depth", "focal", "center")
    double = replace(single, **{name: getattr(single, name).double() for name in parts})
    found, exact = (
        PhotometricSystem(lambda *_, view=view: view, 0, SurfacePatches(points)).equations(problem)[1]
        for view in (single, double)
    )
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3 * float(exact.abs().max()))


def test_recovers_disturbed_cameras_better_than_few_tracks_do() -> None:
    scene = wall()
    start = scene.disturbed()
    joint = adjust_jointly(start, scene.look, max_iterations=10).problem
    tracks = adjust(replace(start, free_poses=torch.tensor([False, True, True, True]))).problem
    assert scene.error(joint) < 0.1 * min(scene.error(start), scene.error(tracks))
    assert float(joint.intrinsics[0, 0].exp()) == pytest.approx(FOCAL, rel=2e-3)


def test_two_cameras_get_a_focal_length_each() -> None:
    scene = wall()
    start = scene.disturbed(log_focal=0.0)
    twice = {
        name: getattr(start, name).repeat(2, 1)
        for name in ("intrinsics", "free_intrinsics", "prior_mean", "prior_sigma")
    }
    start = replace(start, camera_ids=torch.tensor([0, 1, 0, 1]), **twice)
    start.intrinsics[:, 0] += torch.tensor([0.015, -0.01])
    found = adjust_jointly(start, scene.look, max_iterations=10).problem.intrinsics
    torch.testing.assert_close(found[:, 0].exp(), torch.full((2,), FOCAL).double(), rtol=2e-3, atol=0)
    assert found[0, 0] != found[1, 0]


def test_the_cost_falls_and_the_result_is_reproducible() -> None:
    scene = wall()
    first, second = (adjust_jointly(scene.disturbed(), scene.look) for _ in range(2))
    assert first.costs
    assert all(after < before for before, after in first.costs)
    assert 0.5 < first.photometric_share < 1 + 1e-9  # few, noisy tracks
    assert torch.equal(first.problem.T_camera_world, second.problem.T_camera_world)
    assert first.costs == second.costs


@pytest.mark.parametrize("poses", [True, False])
def test_what_is_fixed_stays(poses: bool) -> None:
    scene = wall()
    start = scene.disturbed()
    start = replace(
        start,
        free_poses=torch.full((4,), poses),
        free_intrinsics=torch.tensor([[not poses, False, False, False, False]]),
    )
    result = adjust_jointly(start, scene.look).problem
    assert torch.equal(result.T_camera_world, start.T_camera_world) != poses
    assert torch.equal(result.intrinsics, start.intrinsics) == poses


def test_good_tracks_outvote_wrong_renderings() -> None:
    """Images of another wall, as it were: what they ask for is contradicted by a hundred tracks."""
    scene = wall(num_points=100, noise=0.02)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(72, 96, 3, generator=generator, dtype=torch.float64) for _ in scene.images]
    result = adjust_jointly(scene.problem, replace(scene, images=images).look)
    residuals, _ = reprojection_residuals(replace(result.problem, sigma=scene.problem.sigma))
    assert residuals.square().mean().sqrt() < 0.02
    assert result.photometric_share < 0.1


def test_comparing_with_all_centers_finds_what_a_tree_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nope_splat.refinement.surface_patches.BLOCK", 1000
    )  # several blocks, the last one smaller
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(90, 3, generator=generator)
    points = 100 + torch.randn(333, 3, generator=generator)  # far off, where products would cancel
    _, expected = KDTree((100 + centers).numpy()).query(points.numpy())
    assert nearest(points, 100 + centers).tolist() == expected.tolist()
