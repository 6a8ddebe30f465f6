"""Gaussians: their parameters, as optimized and as rendered, and their start at given points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import Parameter, ParameterDict

PARAMETERS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Names of the optimized parameters, Splatfacto's."""

INITIAL_OPACITY = 0.1
MIN_OPACITY = 0.02
"""Least and, from one, most opacity of a seed."""


SH_0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""


class Gaussians(NamedTuple):
    """Gaussians as `rasterization` takes them."""

    means: Tensor
    """Centers in world coordinates. (N, 3)."""
    quats: Tensor
    """Orientations (w, x, y, z), of any length. (N, 4)."""
    scales: Tensor
    """Standard deviations along the axes, in world units. (N, 3)."""
    opacities: Tensor
    """In 0 to 1. (N,)."""
    colors: Tensor
    """Coefficients of the spherical harmonics. (N, K, 3)."""

    def select(self, mask: Tensor) -> Gaussians:
        """Those where a mask (N,) is true."""
        return Gaussians(*(values[mask] for values in self))

    def detach(self) -> Gaussians:
        """The same without gradients."""
        return Gaussians(*(values.detach() for values in self))


def activate(parameters: Mapping[str, Tensor]) -> Gaussians:
    """Gaussians from their optimized parameters: scales are logarithms, opacities logits.

    Args:
        parameters: By the names in `PARAMETERS`.
    """
    return Gaussians(
        parameters["means"],
        parameters["quats"],
        parameters["scales"].exp(),
        parameters["opacities"].sigmoid().squeeze(-1),
        torch.cat([parameters["features_dc"][:, None], parameters["features_rest"]], dim=1),
    )


def seed_gaussians(
    points: Tensor,
    colors: Tensor,
    sh_degree: int,
    sizes: Tensor | None = None,
    opacities: Tensor | None = None,
) -> ParameterDict:
    """Round Gaussians at given points, faint and as large as the distance to their neighbors if not told.

    Args:
        points: World coordinates. (N, 3).
        colors: RGB. (N, 3), uint8.
        sh_degree: Highest degree of the spherical harmonics.
        sizes: Standard deviations in world units. (N,).
        opacities: In 0 to 1; kept away from both ends, where no gradient is. (N,).

    Returns:
        Parameters by the names in `PARAMETERS`.
    """
    if sizes is None:
        num_neighbors = min(3, len(points) - 1)
        distances, _ = KDTree(points.numpy()).query(points.numpy(), k=num_neighbors + 1)
        sizes = torch.from_numpy(distances[:, 1:].mean(axis=1))
    if opacities is None:
        opacities = torch.full((len(points),), INITIAL_OPACITY, device=points.device)
    rest = torch.zeros(len(points), (sh_degree + 1) ** 2 - 1, 3, device=points.device)
    return ParameterDict(
        {
            "means": Parameter(points.float().clone()),
            "scales": Parameter(sizes.float().clamp(min=1e-5).log()[:, None].repeat(1, 3)),
            "quats": Parameter(random_rotations(len(points), points.device)),
            "features_dc": Parameter((colors.float() / 255 - 0.5) / SH_0),
            "features_rest": Parameter(rest),
            "opacities": Parameter(torch.logit(opacities[:, None], eps=MIN_OPACITY)),
        }
    )


def join(layers: list[ParameterDict]) -> ParameterDict:
    """All Gaussians of several sets, in order.

    Args:
        layers: Parameters by the names in `PARAMETERS`; at least one set.

    Returns:
        The same parameters, concatenated.
    """
    return ParameterDict(
        {name: Parameter(torch.cat([layer[name].data for layer in layers])) for name in PARAMETERS}
    )


def random_rotations(count: int, device: torch.device) -> Tensor:
    """Draw rotations uniformly (Shoemake, Graphics Gems III, 1992).

    Args:
        count: How many.
        device: Where to.

    Returns:
        Unit quaternions. (N, 4).
    """
    u, v, w = (torch.rand(count, device=device) for _ in range(3))
    low, high = torch.sqrt(1 - u), torch.sqrt(u)
    v, w = 2 * math.pi * v, 2 * math.pi * w
    return torch.stack([low * torch.sin(v), low * torch.cos(v), high * torch.sin(w), high * torch.cos(w)], -1)
