"""Parameters of Gaussians and track points, under the names that nerfstudio uses for Splatfacto."""

from __future__ import annotations

import logging
from typing import Any

import torch
from nerfstudio.models.splatfacto import SH2RGB, SplatfactoModel
from torch import Tensor, nn
from torch.nn import Parameter, ParameterDict

from nope_splat.errors import NopeSplatError
from nope_splat.splatting.gaussians import PARAMETERS, Gaussians, activate

logger = logging.getLogger(__name__)

RESIZABLE = ("gauss_params.", "track_params.", "track_points")
"""Prefixes of the names of parameters that have one row per Gaussian or track point."""


class SplatParameters(SplatfactoModel):
    """Splatfacto's parameters, extended by track points, which may be tied to Gaussians.

    If track points are tied, P of the N Gaussians are centered at the P track points. These Gaussians are the
    first rows of every tensor, so that Gaussian i belongs to track i.
    """

    gauss_params: ParameterDict
    """Parameters of the Gaussians that are not tied to track points, by the names in `PARAMETERS`.
    Densification replaces these parameters."""
    track_params: ParameterDict
    """Parameters of the Gaussians tied to track points, by the names in `PARAMETERS`; empty if the track
    points are separate."""
    track_points: Parameter | None
    """Track points in world coordinates (P, 3); None if they are tied to Gaussians."""

    def _parameter(self, name: str) -> Tensor:
        """Return the parameter `name` of all N Gaussians, tied Gaussians first. (N, ...)."""
        if not self.track_params:
            return self.gauss_params[name]
        return torch.cat([self.track_params[name], self.gauss_params[name]])

    @property
    def means(self) -> Tensor:
        """Centers of the Gaussians in world coordinates. (N, 3)."""
        return self._parameter("means")

    @property
    def scales(self) -> Tensor:
        """Natural logs of the standard deviations in world units, along each Gaussian's axes. (N, 3)."""
        return self._parameter("scales")

    @property
    def quats(self) -> Tensor:
        """Rotations from Gaussian axes to world axes, as unnormalized quaternions (w, x, y, z). (N, 4)."""
        return self._parameter("quats")

    @property
    def features_dc(self) -> Tensor:
        """Spherical harmonics coefficients of degree 0 for R, G and B. (N, 3)."""
        return self._parameter("features_dc")

    @property
    def features_rest(self) -> Tensor:
        """Spherical harmonics coefficients of degrees 1 to D, for R, G and B. (N, (D + 1)^2 - 1, 3).

        D is the option `sh_degree`.
        """
        return self._parameter("features_rest")

    @property
    def opacities(self) -> Tensor:
        """Opacities of the Gaussians as logits (before the sigmoid). (N, 1)."""
        return self._parameter("opacities")

    @property
    def colors(self) -> Tensor:
        """Colors of the Gaussians without view-dependent terms, RGB with 1 as full brightness. (N, 3)."""
        return SH2RGB(self.features_dc)

    @property
    def shs_0(self) -> Tensor:
        """Alias of `features_dc`: spherical harmonics coefficients of degree 0. (N, 3)."""
        return self.features_dc

    def gaussians(self) -> Gaussians:
        """Return all N Gaussians, with exp applied to the scales and sigmoid to the opacities."""
        return activate({name: self._parameter(name) for name in PARAMETERS})

    def track_positions(self) -> Tensor:
        """Return the track points in world coordinates, whether separate or tied to Gaussians. (P, 3)."""
        return self.track_params["means"] if self.track_points is None else self.track_points

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        """Return the parameters of Gaussians and track points by the names of nerfstudio's parameter groups.

        The group `track_points` contains the track points. If track points are tied, they are the centers of
        Gaussians, and the other parameters of these Gaussians form groups such as `track_scales`.
        """
        groups = {name: [self.gauss_params[name]] for name in PARAMETERS}
        if self.track_points is not None:
            return groups | {"track_points": [self.track_points]}
        tied = {f"track_{name}": [self.track_params[name]] for name in PARAMETERS if name != "means"}
        return groups | tied | {"track_points": [self.track_params["means"]]}

    @torch.no_grad()
    def remove_nonfinite_gaussians(self) -> None:
        """Remove Gaussians with NaN or infinite parameters, which cannot be rendered, and log their number.

        Gaussians tied to track points are not checked.

        Raises:
            NopeSplatError: If no Gaussian would be left.
        """
        parameters = list(self.gauss_params.values())
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in parameters]).all(0)
        if finite.all():
            return
        if not finite.any():
            raise NopeSplatError(
                "damaged-checkpoint",
                "all Gaussians in the checkpoint contain NaN or infinity, because training diverged or"
                " the file is damaged; load an earlier checkpoint or train again",
            )
        num_removed = int((~finite).sum())
        logger.warning(
            f"Removed {num_removed} of {len(finite)} Gaussians, because they contain NaN or infinity."
        )
        for parameter in parameters:
            parameter.data = parameter.data[finite]

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs) -> Any:
        """Load the state of a model with any number of Gaussians and track points.

        The parameters are resized in place, because the optimizers already refer to them. Splatfacto would
        create new parameters, which the optimizers would not update.

        Args:
            dict: State of a model, by parameter name.
            **kwargs: Keyword arguments of `torch.nn.Module.load_state_dict`.

        Returns:
            Result of `torch.nn.Module.load_state_dict`.

        Raises:
            ValueError: If the parameters in the state have different numbers of Gaussians.
        """
        for name, parameter in self.named_parameters():
            saved = dict.get(name)
            if saved is None or not name.startswith(RESIZABLE) or saved.shape[1:] != parameter.shape[1:]:
                continue  # torch reports missing entries and wrong shapes below
            if len(saved) != len(parameter):
                parameter.data = torch.zeros_like(saved, device=parameter.device)
        for parameters in (self.gauss_params, self.track_params):
            if len({len(parameter) for parameter in parameters.values()}) > 1:
                raise ValueError("its parameters have different numbers of Gaussians")
        return nn.Module.load_state_dict(self, dict, **kwargs)
