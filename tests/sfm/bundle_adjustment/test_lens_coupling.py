"""Coupling of cameras that share a lens: derivatives, and normal equations."""

from __future__ import annotations

import torch

from nope_splat.sfm.bundle_adjustment.lens_coupling import (
    coupling_equations,
    coupling_residuals,
    lens_jacobian,
    lens_parameters,
)

ZOOM = 1.4
LENS_IDS = torch.tensor([0, 1, 0])


def intrinsics() -> torch.Tensor:
    """Create three cameras; the third is the first with a digital zoom."""
    rows = [[6.5, 4.0, -3.0, -0.1, 0.02], [6.7, 1.0, 2.0, 0.05, 0.0], [6.5, 4.0, -3.0, -0.1, 0.02]]
    values = torch.tensor(rows, dtype=torch.float64)
    values[2, 0] += torch.tensor(ZOOM, dtype=torch.float64).log()
    values[2, 1:3] *= ZOOM
    return values


def test_a_digital_zoom_keeps_the_lens_parameters() -> None:
    values = intrinsics()
    torch.testing.assert_close(lens_parameters(values)[2], lens_parameters(values)[0])
    assert coupling_residuals(values, LENS_IDS).abs().max() < 1e-6
    assert coupling_residuals(values, torch.tensor([0, 0, 0])).abs().max() > 1e3


def test_jacobian_matches_finite_differences() -> None:
    jacobian = torch.func.jacfwd(lambda row: lens_parameters(row[None])[0])
    for row, expected in zip(intrinsics(), lens_jacobian(intrinsics()), strict=True):
        h = 1e-6
        numeric = [
            (lens_parameters((row + h * step)[None]) - lens_parameters((row - h * step)[None]))[0] / (2 * h)
            for step in torch.eye(5, dtype=torch.float64)
        ]
        torch.testing.assert_close(expected, torch.stack(numeric, 1), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(expected, jacobian(row))


def test_equations_are_those_of_the_squared_residuals() -> None:
    values = intrinsics() + 1e-3 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    matrix, gradient = coupling_equations(values, LENS_IDS)

    def cost(flat: torch.Tensor) -> torch.Tensor:
        return coupling_residuals(flat.view(3, 5), LENS_IDS).square().sum() / 2

    torch.testing.assert_close(gradient, torch.func.grad(cost)(values.flatten()))
    rows = torch.func.jacfwd(lambda flat: coupling_residuals(flat.view(3, 5), LENS_IDS).flatten())(
        values.flatten()
    )
    torch.testing.assert_close(matrix, rows.T @ rows)
