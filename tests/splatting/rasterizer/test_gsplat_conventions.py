"""Stages of the CPU rasterizer against gsplat's PyTorch functions, and with gsplat's strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from fixtures.dense_reference import random_fisheye_scene, random_scene, relative_error
from gsplat import DefaultStrategy
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics

from nope_splat.splatting.rasterizer import rasterization
from nope_splat.splatting.rasterizer.autograd import Projection, SphericalHarmonics


@pytest.mark.parametrize("camera_model", ["pinhole", "fisheye"])
def test_projection_and_its_gradients_match_gsplat(camera_model: Literal["pinhole", "fisheye"]) -> None:
    scene = random_scene(1, count=200, cameras=2)
    if camera_model == "fisheye":
        scene = random_fisheye_scene(1, 150.0, count=200, cameras=2)
    smallest = 0.06 / scene.Ks[0, 0, 0].item()  # because 1 / compensation is bounded
    scene = replace(scene, scales=scene.scales.clamp_min(smallest))
    exact, actual = scene.leaves(torch.float64), scene.leaves()
    covariances, _ = _quat_scale_to_covar_preci(exact.quats, exact.scales, compute_preci=False)
    assert covariances is not None
    expected = _fully_fused_projection(
        exact.means,
        covariances,
        exact.viewmats,
        exact.Ks,
        scene.width,
        scene.height,
        calc_compensations=True,
        camera_model=camera_model,
    )
    outputs = Projection.apply(
        actual.means,
        actual.quats,
        actual.scales,
        actual.viewmats,
        actual.Ks,
        scene.width,
        scene.height,
        0.3,
        0.01,
        1e10,
        0.0,
        camera_model,
        {},
    )
    visible = expected[0] > 0
    assert torch.equal(outputs[0], expected[0])
    assert 20 < visible.sum() < 380
    loss, expected_loss = torch.zeros(()), torch.zeros((), dtype=torch.float64)
    for name, result, reference in zip(
        ("means2d", "depths", "conics", "compensations"), outputs[1:], expected[1:], strict=True
    ):
        assert reference is not None
        assert relative_error(result[visible], reference[visible]) < 1e-6, name
        weights = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
        loss = loss + (weights * result)[visible].sum()
        expected_loss = expected_loss + (weights * reference)[visible].sum()
    loss.backward()
    expected_loss.backward()
    gradients, expected_gradients = actual.gradients(), exact.gradients()
    expected_gradients["Ks"][:, [0, 1], [1, 0]] = 0  # skew is not a camera parameter
    for name in ("means", "quats", "scales", "viewmats", "Ks"):
        assert relative_error(gradients[name], expected_gradients[name]) < 2e-5, name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_and_their_gradients_match_gsplat(degree: int) -> None:
    g = torch.Generator().manual_seed(degree)
    means, coefficients = torch.randn(300, 3, generator=g), torch.randn(300, 16, 3, generator=g)
    center, weights = torch.randn(1, 3, generator=g), torch.randn(300, 3, generator=g)
    radii = (torch.rand(1, 300, generator=g) > 0.2).int()
    exact = [tensor.double().requires_grad_() for tensor in (means, center, coefficients)]
    colors = torch.clamp_min(_spherical_harmonics(degree, exact[0] - exact[1], exact[2]) + 0.5, 0.0)
    (weights * colors * radii[0, :, None]).sum().backward()
    single = [tensor.clone().requires_grad_() for tensor in (means, center, coefficients)]
    actual = SphericalHarmonics.apply(degree, single[0], single[1], single[2][None], radii)
    (weights * actual[0]).sum().backward()
    visible = radii[0] > 0
    torch.testing.assert_close(actual[0][visible].double(), colors[visible], rtol=0, atol=2e-6)
    for tensor, reference in zip(single, exact, strict=True):
        assert tensor.grad is not None
        if reference.grad is None:  # degree 0 does not depend on the direction
            assert not tensor.grad.any()
        else:
            assert relative_error(tensor.grad, reference.grad) < 1e-6


def test_default_strategy_of_gsplat_densifies() -> None:
    scene = random_scene(2, count=100)
    parameters = {
        "means": scene.means,
        "quats": scene.quats,
        "scales": scene.scales.log(),
        "opacities": torch.logit(scene.opacities.clamp(0.1, 0.9)),
        "sh": torch.randn(100, 4, 3),
    }
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in parameters.items()}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([{"params": value, "lr": 1e-3, "name": name}])
        for name, value in parameters.items()
    }
    strategy = DefaultStrategy(
        refine_start_iter=0, refine_every=5, absgrad=True, grow_grad2d=1e-6, reset_every=1000
    )
    strategy.check_sanity(parameters, optimizers)
    state = strategy.initialize_state()
    for step in range(1, 11):
        images, _, info = rasterization(
            parameters["means"],
            parameters["quats"],
            parameters["scales"].exp(),
            parameters["opacities"].sigmoid(),
            parameters["sh"],
            scene.viewmats,
            scene.Ks,
            scene.width,
            scene.height,
            sh_degree=1,
            absgrad=True,
        )
        strategy.step_pre_backward(parameters, optimizers, state, step, info)
        ((images - 0.5) ** 2).mean().backward()
        assert info["means2d"].grad is not None
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(parameters, optimizers, state, step, info)
    assert len(parameters["means"]) > 100
