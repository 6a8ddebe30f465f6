"""Options of a bundle adjustment."""

from __future__ import annotations

from dataclasses import dataclass

from nope_splat.utils.typing import Mask


@dataclass(frozen=True)
class BundleAdjustmentOptions:
    """Refined intrinsics, stopping criteria and device of a bundle adjustment, with COLMAP's names.

    Each of K cameras has a focal length, a principal point and, as extra parameters, radial distortion.
    """

    refine_focal_length: bool = True
    """Whether to refine the focal lengths, unless the state fixes them."""
    refine_principal_point: bool | Mask = False
    """Whether to refine the principal points, for all cameras or per camera. () or (K,)."""
    refine_extra_params: bool | Mask = False
    """Whether to refine radial distortion, for all cameras or per camera. () or (K,)."""
    min_num_observations: int = 20
    """Minimum number of observations for which the adjustment runs."""
    max_iterations: int = 25
    """Maximum number of accepted steps."""
    tolerance: float = 1e-5
    """Relative decrease of the cost in one step below which the adjustment stops."""
    device: str = "cpu"
    """Torch device."""
