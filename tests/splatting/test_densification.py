"""Densification.

- Gaussians with large image-plane gradients are duplicated, faint ones are pruned, culled ones are ignored.
- The number of Gaussians stays below the cap, the largest gradients come first, fixed Gaussians are
  unchanged.
- The radius of a Gaussian stays below a fraction of the image, whichever axis makes it large.
- The `radii` layouts of gsplat 1.4 and 1.5 give the same statistics.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import Parameter, ParameterDict

from nope_splat.splatting.densification import CappedStrategy


def make_strategy(count: int, **settings) -> tuple[CappedStrategy, ParameterDict, dict, dict]:
    """Make a strategy with parameters, optimizers and state."""
    options: dict[str, Any] = {
        "refine_start_iter": 0, "refine_every": 10, "reset_every": 1000, "absgrad": True, "prune_opa": 0.1,
    }  # fmt: skip
    strategy = CappedStrategy(**options | settings)
    params = ParameterDict(
        {
            "means": Parameter(torch.arange(count * 3.0).reshape(count, 3)),
            "scales": Parameter(torch.full((count, 3), -5.0)),
            "quats": Parameter(torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1)),
            "opacities": Parameter(torch.zeros(count, 1)),
        }
    )
    optimizers = {name: torch.optim.Adam([parameter], lr=0.1) for name, parameter in params.items()}
    for name, optimizer in optimizers.items():
        params[name].grad = torch.zeros_like(params[name])
        optimizer.step()
    return strategy, params, optimizers, strategy.initialize_state()


def rasterizer_info(
    gradients: torch.Tensor, visible: torch.Tensor | None = None, two_radii: bool = False
) -> dict:
    """Make the `info` of a rasterizer with horizontal image-plane gradients (N,)."""
    means2d = torch.zeros(1, len(gradients), 2)
    means2d.absgrad = torch.stack([gradients, torch.zeros_like(gradients)], dim=-1)[None]  # pyright: ignore[reportAttributeAccessIssue]
    radii = (torch.ones(len(gradients)) if visible is None else visible.float())[None].int()
    if two_radii:
        radii = radii[..., None].repeat(1, 1, 2)
    return {
        "means2d": means2d,
        "radii": radii,
        "width": 200,
        "height": 100,
        "n_cameras": 1,
        "gaussian_ids": None,
    }


def test_large_gradients_densify_and_faint_gaussians_are_pruned() -> None:
    strategy, params, optimizers, state = make_strategy(6)
    params["opacities"].data[5] = -5.0
    gradients = torch.tensor([1e-4, 0, 0, 0, 0, 0])  # times half the width is 0.01
    for step in range(11):
        strategy.step_post_backward(params, optimizers, state, step, rasterizer_info(gradients))
    assert len(params["means"]) == 6  # one duplicated, one pruned
    assert (params["means"] == torch.tensor([0.0, 1.0, 2.0])).all(dim=-1).sum() == 2
    assert all(
        optimizer.param_groups[0]["params"][0] is params[name] for name, optimizer in optimizers.items()
    )


def test_cap_includes_fixed_gaussians_and_prefers_large_gradients() -> None:
    strategy, params, optimizers, state = make_strategy(6, cap_max=11, num_fixed=3)
    gradients = torch.tensor([9.0, 9.0, 9.0, 0.1, 0.3, 0.2, 0.6, 0.5, 0.4])
    for step in range(11):
        strategy.step_post_backward(params, optimizers, state, step, rasterizer_info(gradients))
    assert len(params["means"]) == 8
    torch.testing.assert_close(params["means"].detach()[6:, 0], torch.tensor([9.0, 12.0]))
    for step in range(11, 31):
        strategy.step_post_backward(params, optimizers, state, step, rasterizer_info(torch.ones(11)))
    assert len(params["means"]) == 8


@pytest.mark.parametrize("two_radii", [False, True])
def test_statistics_ignore_culled_gaussians(two_radii: bool) -> None:
    strategy, params, optimizers, state = make_strategy(3)
    visible = torch.tensor([True, False, True])
    strategy.step_post_backward(
        params, optimizers, state, 1, rasterizer_info(torch.tensor([1.0, 1.0, 2.0]), visible, two_radii)
    )
    torch.testing.assert_close(state["grad2d"], torch.tensor([100.0, 0.0, 200.0]))
    torch.testing.assert_close(state["count"], torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(state["radii"], torch.tensor([1.0, 0.0, 1.0]) / 200)


def test_opacities_are_reset_on_schedule_but_not_at_step_zero() -> None:
    strategy, params, optimizers, state = make_strategy(3, reset_every=20, refine_every=1000)
    params["opacities"].data.fill_(3.0)
    for step in range(21):
        strategy.step_post_backward(params, optimizers, state, step, rasterizer_info(torch.zeros(3)))
        assert (params["opacities"] == 3.0).all() == (step < 20)
    torch.testing.assert_close(params["opacities"].sigmoid(), torch.full((3, 1), 0.2))


def test_gaussian_sizes_are_limited() -> None:
    strategy, params, optimizers, state = make_strategy(3, max_scale2d=0.25, refine_stop_iter=0)  # 50 pixels
    params["scales"].data = torch.tensor([[1.0, 0.5, -3.0], [1.0, 0.5, -3.0], [1.0, 1.0, 1.0]])
    info = rasterizer_info(torch.zeros(3))
    info["radii"] = torch.tensor([[100, 50, 0]], dtype=torch.int32)
    strategy.step_post_backward(params, optimizers, state, 7, info)
    half = 1.0 - math.log(2.0)
    expected = torch.tensor([[half, half, -3.0], [1.0, 0.5, -3.0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(params["scales"].data, expected)
