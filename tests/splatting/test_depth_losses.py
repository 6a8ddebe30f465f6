"""Depth losses and depth priors, on a wall with exact images and depths.

- Gradients agree with finite differences in float64.
- Losses are minimal at the true scales and shifts, which they recover.
- Pixels that are unknown, transparent, masked or outside the other image are ignored.
- Priors are in world units and undistorted; neighbors are the views that share most matches.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.synthetic import ring
from fixtures.wall_scene import FOCAL, SIZE, look_at_wall, wall
from PIL import Image
from torch import Tensor

from nope_splat.depth import DepthMap
from nope_splat.geometry.camera import Camera
from nope_splat.io.images import ImageFile
from nope_splat.plugin.depth_priors import DepthPrior, DepthPriors, make_depth_priors
from nope_splat.plugin.depth_supervision import DepthSupervision
from nope_splat.scene.tracks import MatchGraph, Observations
from nope_splat.sfm import Reconstruction
from nope_splat.splatting.depth_losses import (
    ImageView,
    chamfer_loss,
    corrected_depth,
    depth_consistency_loss,
)

CENTER = torch.tensor(SIZE, dtype=torch.float64) / 2
TRUE = torch.zeros(2, dtype=torch.float64)


def pixels(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Sample pixels: rows (n,), columns (n,) and centers (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    row, column = (torch.randint(8, side - 8, (count,), generator=generator) for side in SIZE[::-1])
    return row, column, torch.stack([column, row], -1).double() + 0.5


@pytest.mark.parametrize("inverse", [True, False])
def test_depth_consistency_gradients(inverse: bool) -> None:
    depth = look_at_wall(wall().problem.T_camera_world[0], FOCAL).depth[20:26, 30:38]
    values = (1 / depth if inverse else depth) + 0.05 * torch.sin(torch.arange(48.0).double()).view(6, 8)
    values[1, 1] = torch.nan
    opacity = torch.full_like(depth, 0.9)
    opacity[2, 2] = 0.2

    def loss(depth: Tensor, correction: Tensor) -> Tensor:
        return depth_consistency_loss(depth, opacity, values, correction, inverse)

    correction = torch.tensor([0.03, -0.02], dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (depth.requires_grad_(), correction.requires_grad_()))
    (gradient,) = torch.autograd.grad(loss(depth, correction), depth)
    assert gradient[1, 1] == gradient[2, 2] == 0
    assert (gradient != 0).sum() == 46


@pytest.mark.parametrize("inverse", [True, False])
def test_gradients_between_images(inverse: bool) -> None:
    """The Chamfer loss differentiates to corrections, poses and focal length."""
    scene = wall(num_views=2)
    views = [look_at_wall(pose, FOCAL) for pose in scene.problem.T_camera_world]
    samples = [pixels(30, seed) for seed in range(2)]
    values = [
        (1 / view.depth if inverse else view.depth)[row, column]
        for view, (row, column, _) in zip(views, samples, strict=True)
    ]

    def chamfer(T: Tensor, focal: Tensor, corrections: Tensor) -> Tensor:
        cameras = [ImageView(T[view], focal.expand(2), CENTER) for view in range(2)]
        depths = [corrected_depth(values[view], corrections[view], inverse)[0] for view in range(2)]
        points = [cameras[view].unproject(samples[view][2], depths[view]) for view in range(2)]
        return chamfer_loss(*points)

    inputs = (
        scene.problem.T_camera_world.clone(),
        torch.tensor(1.01 * FOCAL, dtype=torch.float64),
        torch.tensor([[0.02, 0.01], [-0.01, 0.03]], dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(chamfer, [value.clone().requires_grad_() for value in inputs])


def test_losses_are_minimal_at_the_truth() -> None:
    scene = wall(num_views=2)
    first = look_at_wall(scene.problem.T_camera_world[0], FOCAL)
    row, column, xy = pixels(400)
    focals = torch.full((2,), FOCAL, dtype=torch.float64)
    cameras = [ImageView(pose, focals, CENTER) for pose in scene.problem.T_camera_world]

    assert depth_consistency_loss(
        first.depth, torch.ones_like(first.depth), 1 / first.depth, TRUE, True
    ) == pytest.approx(0, abs=1e-12)
    points = cameras[0].unproject(xy, first.depth[row, column])
    assert chamfer_loss(points, points.flip(0)) == pytest.approx(0, abs=1e-12)
    back, depth = cameras[0].project(points)
    torch.testing.assert_close(back, xy)
    torch.testing.assert_close(depth, first.depth[row, column])


def test_losses_without_valid_pixels_are_zero() -> None:
    points, empty = torch.rand(5, 3, requires_grad=True), torch.zeros(0, 3)
    for loss in (
        chamfer_loss(points, empty),
        depth_consistency_loss(points, torch.zeros(5, 3), torch.rand(5, 3), torch.zeros(2), True),
    ):
        assert loss == 0
        loss.backward()
    _, known = corrected_depth(torch.tensor([float("nan"), -1.0, 0.0, 1e-4, 0.5]), torch.zeros(2), True)
    assert known.tolist() == [False, False, False, False, True]


def wall_priors(inverse: bool) -> DepthPriors:
    """Make exact priors of four views, each the neighbor of the next."""
    views = {}
    for index, pose in enumerate(wall().problem.T_camera_world):
        view = look_at_wall(pose, FOCAL)
        values = (1 / view.depth if inverse else view.depth).float()
        used = torch.ones(values.shape, dtype=torch.bool)
        views[index] = DepthPrior(values, used, torch.ones(2), CENTER.float())
    return DepthPriors(views, inverse, {0: (1,), 1: (2, 0), 2: (3, 1), 3: (2,)})


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)], ids=["depth", "chamfer"])
def test_scales_and_shifts_are_recovered(
    monkeypatch: pytest.MonkeyPatch, inverse: bool, weights: tuple[float, float]
) -> None:
    monkeypatch.setattr("nope_splat.plugin.depth_supervision.NUM_SAMPLES", 256)
    torch.manual_seed(0)
    supervision = DepthSupervision(4, wall_priors(inverse), *weights)
    wrong = torch.tensor([[0.1, -0.05], [-0.08, 0.04], [0.05, 0.05], [-0.1, -0.03]])
    supervision.corrections.data = wrong.clone()
    poses = wall().problem.T_camera_world.float()
    truths = [look_at_wall(pose, FOCAL).depth.float()[..., None] for pose in poses.double()]
    optimizer = torch.optim.Adam([supervision.corrections], lr=1e-2)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    for step in range(160):
        view = step % 4
        outputs = {"depth": truths[view], "accumulation": torch.ones_like(truths[view])}
        losses = supervision.losses(view, outputs, poses, torch.full((4,), FOCAL))
        assert set(losses) == ({"depth"} if weights[0] else {"chamfer"})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        decay.step()

    def error(corrections: Tensor) -> float:
        """Mean relative depth error of all views."""
        errors = []
        for view, truth in enumerate(truths):
            depth, _ = corrected_depth((1 / truth if inverse else truth)[..., 0], corrections[view], inverse)
            errors.append((depth / truth[..., 0] - 1).abs().mean())
        return float(torch.stack(errors).mean())

    # Clouds of neighbors determine their corrections only relative to each other.
    remaining = 0.15 if weights[0] else 0.5
    assert error(supervision.corrections.detach()) < remaining * error(wrong)


def test_views_without_priors_have_no_depth_losses() -> None:
    priors = wall_priors(True)
    del priors.views[2]
    supervision = DepthSupervision(4, replace(priors, neighbors={0: (), 1: (0,), 3: ()}), 1.0, 1.0)
    poses, focal = wall().problem.T_camera_world.float(), torch.full((4,), FOCAL)
    outputs = {"depth": torch.ones(36, 48, 1), "accumulation": torch.ones(36, 48, 1)}
    assert supervision.losses(2, outputs, poses, focal) == {}
    assert set(supervision.losses(0, outputs, poses, focal)) == {"depth"}  # at half the resolution
    assert set(supervision.losses(1, outputs, poses, focal)) == {"depth", "chamfer"}
    assert DepthSupervision(4, None, 1.0, 1.0).losses(0, outputs, poses, focal) == {}


def test_masked_pixels_of_the_other_image_are_ignored() -> None:
    poses, focal = wall().problem.T_camera_world.float(), torch.full((4,), FOCAL)
    priors = wall_priors(True)
    for prior in priors.views.values():
        prior.used[:] = False
        prior.used[8:24, 8:30] = True
        prior.values[~prior.used] = 3.0  # a wrong inverse depth, which no point of the other image meets
    for prior in priors.views.values():
        prior.values[~prior.used] = torch.nan
    torch.manual_seed(0)
    loss = DepthSupervision(4, priors, 0.0, 1.0).losses(1, {}, poses, focal)["chamfer"]
    assert 0 < loss < 0.2


# --- Priors ---

LENS = Camera(90.0, (2.0, -1.0), (0.1, 0.02, 0.0, 0.0, 0.0, 0.0))


def plane_scene(folder: Path) -> tuple[Reconstruction, list[ImageFile], np.ndarray]:
    """Make five distorted images of the plane y = 0.

    The inverse depth in image i is `planes[i] @ ray`, for rays at depth one.
    """
    poses = ring(5, 40.0)
    x, z = np.random.default_rng(0).uniform(-1, 1, (2, 50))
    points = np.stack([x, 0 * x, z], axis=1)
    images, image_ids, xy = [], [], []
    size = np.array(SIZE)
    for index, pose in enumerate(poses):
        images.append(ImageFile(folder / f"{index}.png", f"{index}.png", *SIZE))
        Image.new("RGB", SIZE, (50 * index, 90, 120)).save(images[-1].path)
        image_ids.append(np.full(len(points), index))
        xy.append(LENS.project((points - pose[:3, 3]) @ pose[:3, :3], size))
    # A ray r at depth one meets the plane where t_y + (R r)_y / w = 0.
    planes = -poses[:, 1, :3] / poses[:, 1, 3:]
    edges = np.array([[0, 1], [1, 2], [1, 4], [2, 4], [3, 4]])
    weights = np.array([10, 50, 40, 30, 20])
    none = np.zeros(0, np.int64)
    scene = Reconstruction(
        image_names=tuple(image.name for image in images),
        image_sizes=np.tile(size, (5, 1)),
        held_out=np.arange(5) == 0,
        registered=np.ones(5, bool),
        T_world_camera=poses,
        cameras=(LENS,),
        camera_ids=np.zeros(5, np.int64),
        points=points,
        colors=np.zeros(points.shape, np.uint8),
        observations=Observations(np.tile(np.arange(50), 5), np.concatenate(image_ids), np.concatenate(xy)),
        noise=np.ones(250),
        resections=Observations(none, none, np.zeros((0, 2))),
        failures={},
        graph=MatchGraph(5, edges, weights, none),
        seconds={},
    )
    return scene, images, planes


@pytest.mark.parametrize("kind", ["disparity", "affine"])
def test_priors_are_in_world_units_and_undistorted(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene, images, planes = plane_scene(tmp_path)
    mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    mask[:10] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    images[2] = replace(images[2], mask_path=tmp_path / "mask.png")
    maps = []
    for index, plane in enumerate(planes):
        template = DepthMap.of_whole_image(np.zeros((144, 192), np.float32), kind, SIZE)  # pyright: ignore[reportArgumentType]
        w = LENS.unproject(template.pixel_centers(), np.array(SIZE)) @ plane
        values = (0.5 + 0.3 * index) * (w if kind == "disparity" else 1 / w) - 0.02 * index
        maps.append(replace(template, values=values.astype(np.float32)))
    maps[3] = replace(maps[3], values=-maps[3].values)  # fits no positive scale
    training = np.arange(1, 5)
    priors = make_depth_priors(
        scene.undistorted(), scene, training, images[1:], {i: maps[i] for i in training.tolist()}
    )
    assert "Check depth.kind" not in caplog.text
    assert priors.inverse == (kind == "disparity")
    assert sorted(priors.views) == [0, 1, 3]
    assert priors.neighbors == {0: (1, 3), 1: (0, 3), 3: (0, 1)}
    camera = Camera(LENS.focal, LENS.offset)
    grid = np.stack(np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5), axis=-1)
    for view, prior in priors.views.items():
        truth = camera.unproject(grid, np.array(SIZE)) @ planes[training[view]]
        values = prior.values.numpy()
        known = np.isfinite(values)
        np.testing.assert_allclose((values if priors.inverse else 1 / values)[known], truth[known], rtol=2e-3)
        assert known[20:-20, 20:-20].all()
        np.testing.assert_allclose(prior.center, np.array(SIZE) / 2 + LENS.offset)
    assert np.isnan(priors.views[1].values.numpy()[:6]).all()
    noise = np.random.default_rng(0).uniform(0.2, 2, maps[0].values.shape).astype(np.float32)
    poor = {i: replace(maps[i], values=noise, kind="metric") for i in training.tolist()}
    make_depth_priors(scene.undistorted(), scene, training, images[1:], poor)
    assert "Check depth.kind" in caplog.text
