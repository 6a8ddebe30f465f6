"""Coverage of held-out views by training views."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nope_splat.evaluation.coverage import DepthViews, covered_pixels

WIDTH, HEIGHT, FOCAL = 40, 20, 40.0
K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
WALL = torch.full((HEIGHT, WIDTH), 2.0)
"""Depth of a wall two units in front of the camera; one unit of translation moves it by 20 pixels."""


def shifted(x: float) -> Tensor:
    """Create the camera-to-world transform of a camera translated along x. (4, 4)."""
    pose = torch.eye(4)
    pose[0, 3] = x
    return pose


def coverage(shifts: list[float], depths: list[Tensor], depth: Tensor = WALL, min_views: int = 1) -> Tensor:
    poses = torch.stack([shifted(x) for x in shifts])
    Ks = K.expand(len(shifts), 3, 3)
    view = DepthViews(depth, torch.eye(4), K)
    return covered_pixels(view, DepthViews(torch.stack(depths), poses, Ks), min_views)


def test_pixels_in_the_field_of_view_of_a_training_view_are_covered() -> None:
    covered = coverage([0.5], [WALL])
    assert not covered[:, :10].any()
    assert covered[:, 10:].all()


def test_a_point_must_be_visible_in_the_minimum_number_of_views() -> None:
    covered = coverage([0.5, -0.5], [WALL, WALL], min_views=2)
    assert covered[:, 10:30].all()
    assert not covered[:, :10].any()
    assert not covered[:, 30:].any()


@pytest.mark.parametrize("train_depth", [1.0, 2.5])
def test_points_at_another_depth_in_the_training_view_are_not_covered(train_depth: float) -> None:
    assert not coverage([0.0], [torch.full_like(WALL, train_depth)]).any()


def test_small_depth_errors_are_tolerated() -> None:
    assert coverage([0.0], [WALL * 1.03]).all()


def test_empty_pixels_neither_cover_nor_are_covered() -> None:
    empty = torch.full_like(WALL, torch.inf)
    assert not coverage([0.0], [WALL], depth=empty).any()
    assert not coverage([0.0], [empty]).any()


def test_points_behind_a_training_camera_are_not_covered() -> None:
    pose = torch.eye(4)
    pose[2, 3] = 4.0
    view = DepthViews(WALL, torch.eye(4), K)
    assert not covered_pixels(view, DepthViews(WALL[None], pose[None], K[None]), 1).any()
