"""Coverage: exactly the pixels whose surface other views have in sight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nope_splat.evaluation.coverage import covered_pixels

WIDTH, HEIGHT, FOCAL = 40, 20, 40.0
K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
WALL = torch.full((HEIGHT, WIDTH), 2.0)
"""Depth of a wall two units in front of the camera: one unit of translation is 20 pixels on it."""


def shifted(x: float) -> Tensor:
    """Camera-to-world transform of a camera that was moved along x. (4, 4)."""
    pose = torch.eye(4)
    pose[0, 3] = x
    return pose


def coverage(shifts: list[float], depths: list[Tensor], depth: Tensor = WALL, min_views: int = 1) -> Tensor:
    poses = torch.stack([shifted(x) for x in shifts])
    Ks = K.expand(len(shifts), 3, 3)
    return covered_pixels(depth, torch.eye(4), K, torch.stack(depths), poses, Ks, min_views)


def test_a_wall_is_covered_where_the_other_image_reaches() -> None:
    covered = coverage([0.5], [WALL])
    assert not covered[:, :10].any()
    assert covered[:, 10:].all()


def test_as_many_views_must_see_a_point_as_are_asked_for() -> None:
    covered = coverage([0.5, -0.5], [WALL, WALL], min_views=2)
    assert covered[:, 10:30].all()
    assert not covered[:, :10].any()
    assert not covered[:, 30:].any()


@pytest.mark.parametrize("other", [1.0, 2.5])
def test_what_another_surface_hides_or_contradicts_is_not_covered(other: float) -> None:
    assert not coverage([0.0], [torch.full_like(WALL, other)]).any()


def test_small_errors_of_depth_do_no_harm() -> None:
    assert coverage([0.0], [WALL * 1.03]).all()


def test_emptiness_covers_nothing_and_is_not_covered() -> None:
    empty = torch.full_like(WALL, torch.inf)
    assert not coverage([0.0], [WALL], depth=empty).any()
    assert not coverage([0.0], [empty]).any()


def test_what_lies_behind_a_camera_is_not_covered() -> None:
    behind = torch.eye(4)
    behind[2, 3] = 4.0
    assert not covered_pixels(WALL, torch.eye(4), K, WALL[None], behind[None], K[None], 1).any()
