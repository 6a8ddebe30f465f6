"""Parameters of a splat, under the names that nerfstudio's optimizers, viewer and exporter use."""

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
"""Name prefixes of parameters with a row per Gaussian or track point."""


class SplatParameters(SplatfactoModel):
    """Splatfacto's parameters, with track points that may be tied to Gaussians.

    Tied Gaussians come first in every tensor, so that Gaussian i always belongs to track i.
    """

    gauss_params: ParameterDict
    """The free Gaussians, by the names in `PARAMETERS`; densification replaces the parameters."""
    track_params: ParameterDict
    """The Gaussians centered at track points, by the same names; empty if track points are separate."""
    track_points: Parameter | None
    """The track points, if they are separate from the Gaussians. (P, 3)."""

    def _parameter(self, name: str) -> Tensor:
        if not self.track_params:
            return self.gauss_params[name]
        return torch.cat([self.track_params[name], self.gauss_params[name]])

    @property
    def means(self) -> Tensor:
        """Centers in world coordinates. (N, 3)."""
        return self._parameter("means")

    @property
    def scales(self) -> Tensor:
        """Logarithms of the standard deviations. (N, 3)."""
        return self._parameter("scales")

    @property
    def quats(self) -> Tensor:
        """Unnormalized quaternions (w, x, y, z). (N, 4)."""
        return self._parameter("quats")

    @property
    def features_dc(self) -> Tensor:
        """Coefficients of the constant spherical harmonic. (N, 3)."""
        return self._parameter("features_dc")

    @property
    def features_rest(self) -> Tensor:
        """Coefficients of the other spherical harmonics. (N, K - 1, 3)."""
        return self._parameter("features_rest")

    @property
    def opacities(self) -> Tensor:
        """Logits of the opacities. (N, 1)."""
        return self._parameter("opacities")

    @property
    def colors(self) -> Tensor:
        """View-independent colors. (N, 3)."""
        return SH2RGB(self.features_dc)

    @property
    def shs_0(self) -> Tensor:
        """Coefficients of the constant spherical harmonic. (N, 3)."""
        return self.features_dc

    def gaussians(self) -> Gaussians:
        """Return all Gaussians, with activations applied."""
        return activate({name: self._parameter(name) for name in PARAMETERS})

    def track_positions(self) -> Tensor:
        """Return the track points in world coordinates. (P, 3)."""
        return self.track_params["means"] if self.track_points is None else self.track_points

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        """Return the parameter groups of free Gaussians, tied Gaussians and track points."""
        groups = {name: [self.gauss_params[name]] for name in PARAMETERS}
        if self.track_points is not None:
            return groups | {"track_points": [self.track_points]}
        tied = {f"track_{name}": [self.track_params[name]] for name in PARAMETERS if name != "means"}
        return groups | tied | {"track_points": [self.track_params["means"]]}

    @torch.no_grad()
    def remove_nonfinite_gaussians(self) -> None:
        """Remove free Gaussians with NaN or infinity, which cannot be rendered, and warn about them.

        Raises:
            NopeSplatError: If no Gaussian is left.
        """
        parameters = list(self.gauss_params.values())
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in parameters]).all(0)
        if finite.all():
            return
        if not finite.any():
            raise NopeSplatError(
                "damaged-checkpoint",
                "all Gaussians in the checkpoint contain NaN or infinity, because the training diverged or"
                " the file is damaged; load an earlier checkpoint or train again",
            )
        num_removed = int((~finite).sum())
        logger.warning(f"Left out {num_removed} of {len(finite)} Gaussians that contain NaN or infinity.")
        for parameter in parameters:
            parameter.data = parameter.data[finite]

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs) -> Any:
        """Load a checkpoint with any number of Gaussians and track points.

        Parameters are resized in place, because the optimizers already refer to them. (Splatfacto replaces
        them, after which no optimizer updates them.)

        Args:
            dict: State of a model.
            **kwargs: Keyword arguments of `torch.nn.Module.load_state_dict`.

        Raises:
            ValueError: If the parameters have different numbers of Gaussians.
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
