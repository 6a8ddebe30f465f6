"""Refinement of a single pose by colors and correspondences."""

from __future__ import annotations

import pytest
import torch
from fixtures.wall_scene import FOCAL, look_at_wall, wall
from torch import Tensor

from nope_splat.geometry.projection import to_plane
from nope_splat.refinement.photometric import RenderedView
from nope_splat.refinement.single_pose import Correspondences2d3d, refine_single_pose


def random_pose(generator: torch.Generator, size: float) -> Tensor:
    """Draw a transform near the identity. (4, 4)."""
    x, y, z = (size * torch.randn(3, generator=generator, dtype=torch.float64)).tolist()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]).double())
    pose[:3, 3] = size * torch.randn(3, generator=generator, dtype=torch.float64)
    return pose


def random_correspondences(
    generator: torch.Generator, pose: Tensor, is_fisheye: bool = False, count: int = 60
) -> Correspondences2d3d:
    """Draw exact correspondences of points two to four units in front of the camera.

    For fisheye lenses, the points are one unit nearer and lie in all directions up to 120 degrees.
    """
    camera = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1
    camera[:, 2] += 3
    if is_fisheye:
        camera = camera - torch.tensor([0, 0, 1.0])
        camera[::2] = camera[::2, [2, 0, 1]] * torch.tensor([1, 1, 0.5])
    points = torch.cat([camera, torch.ones(count, 1).double()], 1) @ torch.linalg.inv(pose).T
    return Correspondences2d3d(points[:, :3], to_plane(camera, is_fisheye), is_fisheye)


def blank(_: Tensor) -> RenderedView:
    """Render a view without texture, which does not constrain the camera."""
    gray = torch.full((40, 50, 3), 0.5)
    return RenderedView(
        gray, gray, torch.ones(40, 50), torch.ones(40, 50, dtype=torch.bool), torch.ones(2), torch.ones(2)
    )


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_gradient_of_correspondences_matches_finite_differences(is_fisheye: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pose, noise, step = random_pose(generator, 0.1), 0.02, 1e-6
    correspondences = random_correspondences(generator, random_pose(generator, 0.1), is_fisheye)
    _, gradient = correspondences.equations(pose, noise)
    for axis in range(6):
        costs = []
        for sign in (1, -1):
            twist = torch.zeros(4, 4, dtype=torch.float64)
            if axis < 3:
                first, second = [(2, 1), (0, 2), (1, 0)][axis]
                twist[first, second], twist[second, first] = sign * step, -sign * step
            else:
                twist[axis - 3, 3] = sign * step
            costs.append(correspondences.cost(torch.linalg.matrix_exp(twist) @ pose, noise))
        # The normal equations are those of half the cost.
        assert gradient[axis].item() == pytest.approx((costs[0] - costs[1]) / (4 * step), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_pose_from_correspondences_is_robust_to_outliers(is_fisheye: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = random_pose(generator, 0.3)
    correspondences = random_correspondences(generator, truth, is_fisheye)
    correspondences.plane[:12] += 0.3 * torch.randn(12, 2, generator=generator, dtype=torch.float64)
    pose = refine_single_pose(blank, random_pose(generator, 0.02) @ truth, correspondences, max_steps=10)
    torch.testing.assert_close(pose, truth, rtol=0, atol=1e-6)


def test_pose_stays_unchanged_without_information() -> None:
    pose = random_pose(torch.Generator().manual_seed(2), 0.3)
    torch.testing.assert_close(refine_single_pose(blank, pose, None, max_steps=3), pose)


@pytest.mark.parametrize("is_fisheye", [False, True])
def test_pose_from_colors_is_robust_to_unseen_objects(is_fisheye: bool) -> None:
    scene, lens = wall(is_fisheye=is_fisheye), (None, None, is_fisheye)
    truth, image = scene.problem.T_camera_world[0], scene.images[0].clone()
    image[:, 70:] = torch.rand(image[:, 70:].shape, generator=torch.Generator().manual_seed(3)).double()
    start = random_pose(torch.Generator().manual_seed(4), 0.02) @ truth
    pose = refine_single_pose(lambda pose: look_at_wall(pose, FOCAL, image, *lens), start, None, max_steps=10)
    assert (pose - truth).abs().max() < 0.02 * (start - truth).abs().max()
