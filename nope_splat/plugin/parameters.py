"""The parameters of a splat, where optimizers, viewer and exporter of nerfstudio look for them."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.models.splatfacto import SH2RGB, SplatfactoModel
from torch import Tensor, nn
from torch.nn import Parameter, ParameterDict

from nope_splat.splatting.gaussians import PARAMETERS, Gaussians, activate

COUNTED = ("gauss_params.", "track_params.", "track_points")
"""Parameters with a row for each Gaussian or track point."""


class SplatParameters(SplatfactoModel):
    """Splatfacto's parameters, of which some may be tied to tracks, and track points.

    The track Gaussians come first in everything, so that Gaussian i is track i for ever.
    """

    gauss_params: ParameterDict
    """The free Gaussians, by the names in `PARAMETERS`; densification replaces the parameters."""
    track_params: ParameterDict
    """The Gaussians whose centers are the track points, by the same names; empty if these are apart."""
    track_points: Parameter | None
    """The track points, if they are apart from the Gaussians. (P, 3)."""

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
        """Orientations (w, x, y, z), of any length. (N, 4)."""
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
        """Colors seen from nowhere in particular. (N, 3)."""
        return SH2RGB(self.features_dc)

    @property
    def shs_0(self) -> Tensor:
        """Coefficients of the constant spherical harmonic. (N, 3)."""
        return self.features_dc

    def gaussians(self) -> Gaussians:
        """All Gaussians, ready to be rendered."""
        return activate({name: self._parameter(name) for name in PARAMETERS})

    def track_positions(self) -> Tensor:
        """Track points in world coordinates. (P, 3)."""
        return self.track_params["means"] if self.track_points is None else self.track_points

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        """Parameter groups of the free Gaussians, and of the track Gaussians or the track points."""
        groups = {name: [self.gauss_params[name]] for name in PARAMETERS}
        if self.track_points is not None:
            return groups | {"track_points": [self.track_points]}
        tied = {f"track_{name}": [self.track_params[name]] for name in PARAMETERS if name != "means"}
        return groups | tied | {"track_points": [self.track_params["means"]]}

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs) -> Any:
        """Load a checkpoint with any number of Gaussians and of track points.

        The parameters are resized in place: the optimizers, which are older, keep holding them. (Splatfacto's
        replaces them, after which no optimizer moves them any more.)

        Args:
            dict: State of this model.
            **kwargs: As for `torch.nn.Module.load_state_dict`.
        """
        for name, parameter in self.named_parameters():
            saved = dict.get(name)
            if saved is None or not name.startswith(COUNTED) or saved.shape[1:] != parameter.shape[1:]:
                continue  # what is wrong with it is told below
            if len(saved) != len(parameter):
                parameter.data = torch.zeros_like(saved, device=parameter.device)
        return nn.Module.load_state_dict(self, dict, **kwargs)
