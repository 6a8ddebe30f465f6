"""Parameters of Gaussians: initialization from points, activation functions and concatenation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import Parameter, ParameterDict

PARAMETERS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Names of the optimized parameters, as in Splatfacto."""

SH_0 = 0.28209479177387814
"""Value of the spherical harmonic of degree zero, 1 / (2 sqrt(pi))."""


@dataclass(frozen=True)
class GaussianInitConfig:
    """Options for initializing Gaussians from points."""

    init_opa: float = 0.1
    """Initial opacity of the Gaussians, 0 to 1, if `initialize_gaussians` gets no opacities."""
    min_opa: float = 0.02
    """Smallest initial opacity. Initial opacities are clamped to [min_opa, 1 - min_opa], because the gradient
    of the sigmoid vanishes at opacities 0 and 1."""
    num_neighbors: int = 3
    """Number of nearest neighbors whose mean distance is the initial scale of a Gaussian, if
    `initialize_gaussians` gets no scales."""
    min_scale: float = 1e-5
    """Smallest initial scale in world units. It keeps the log scales of duplicate points finite."""


class Gaussians(NamedTuple):
    """Gaussians with activated parameters, in the order of the first arguments of `rasterization`."""

    means: Tensor
    """Centers in world coordinates. (N, 3)."""
    quats: Tensor
    """Quaternions (w, x, y, z), not necessarily normalized. (N, 4)."""
    scales: Tensor
    """Standard deviations along the axes, in world units. (N, 3)."""
    opacities: Tensor
    """Opacities in [0, 1]. (N,)."""
    colors: Tensor
    """Spherical-harmonics coefficients of RGB, with K = (degree + 1)^2. (N, K, 3)."""

    def select(self, mask: Tensor) -> Gaussians:
        """Return the Gaussians for which a boolean mask (N,) is True."""
        return Gaussians(*(values[mask] for values in self))

    def detach(self) -> Gaussians:
        """Return the Gaussians with all tensors detached from the autograd graph."""
        return Gaussians(*(values.detach() for values in self))


def activate(parameters: Mapping[str, Tensor]) -> Gaussians:
    """Convert optimized parameters to Gaussians: exponential of log scales, sigmoid of opacity logits.

    Args:
        parameters: Optimized parameters; the keys are the names in `PARAMETERS`.

    Returns:
        The activated Gaussians.
    """
    return Gaussians(
        parameters["means"],
        parameters["quats"],
        parameters["scales"].exp(),
        parameters["opacities"].sigmoid().squeeze(-1),
        torch.cat([parameters["features_dc"][:, None], parameters["features_rest"]], dim=1),
    )


def initialize_gaussians(
    points: Tensor,
    colors: Tensor,
    sh_degree: int,
    scales: Tensor | None = None,
    opacities: Tensor | None = None,
    config: GaussianInitConfig | None = None,
) -> ParameterDict:
    """Initialize isotropic Gaussians at points.

    The scale along all three axes is the same, the rotation is random, and the color is the same from all
    directions.

    Args:
        points: Points, the means of the Gaussians, in world coordinates. (N, 3).
        colors: RGB from 0 to 255. (N, 3), uint8.
        sh_degree: Degree of the spherical harmonics.
        scales: Standard deviations in world units; None to use the mean distance of each point to its
            nearest neighbors. (N,).
        opacities: Opacities in [0, 1]; None to use `config.init_opa`. (N,).
        config: Defaults and limits of scales and opacities; None for a default `GaussianInitConfig`.

    Returns:
        Optimized parameters; the keys are the names in `PARAMETERS`.
    """
    config = config or GaussianInitConfig()
    if scales is None:
        num_neighbors = min(config.num_neighbors, len(points) - 1)
        distances, _ = KDTree(points.numpy()).query(points.numpy(), k=num_neighbors + 1)
        scales = torch.from_numpy(distances[:, 1:].mean(axis=1))
    if opacities is None:
        opacities = torch.full((len(points),), config.init_opa, device=points.device)
    rest = torch.zeros(len(points), (sh_degree + 1) ** 2 - 1, 3, device=points.device)
    log_scales = scales.float().clamp(min=config.min_scale).log()
    return ParameterDict(
        {
            "means": Parameter(points.float().clone()),
            "scales": Parameter(log_scales[:, None].repeat(1, 3)),
            "quats": Parameter(random_rotations(len(points), points.device)),
            "features_dc": Parameter((colors.float() / 255 - 0.5) / SH_0),
            "features_rest": Parameter(rest),
            "opacities": Parameter(torch.logit(opacities[:, None], eps=config.min_opa)),
        }
    )


def concatenate(layers: list[ParameterDict]) -> ParameterDict:
    """Concatenate the parameters of several sets of Gaussians, in order.

    Args:
        layers: Optimized parameters of each set of Gaussians, at least one set; the keys are the names in
            `PARAMETERS`.

    Returns:
        Parameters of the Gaussians of all sets, with the same keys.
    """
    return ParameterDict(
        {name: Parameter(torch.cat([layer[name].data for layer in layers])) for name in PARAMETERS}
    )


def random_rotations(count: int, device: torch.device) -> Tensor:
    """Sample uniformly distributed random rotations (Shoemake, Graphics Gems III, 1992).

    Args:
        count: Number of rotations N.
        device: Device of the result.

    Returns:
        Unit quaternions (w, x, y, z). (N, 4).
    """
    u, v, w = (torch.rand(count, device=device) for _ in range(3))
    low, high = torch.sqrt(1 - u), torch.sqrt(u)
    v, w = 2 * math.pi * v, 2 * math.pi * w
    return torch.stack([low * torch.sin(v), low * torch.cos(v), high * torch.sin(w), high * torch.cos(w)], -1)
