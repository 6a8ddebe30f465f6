"""Options of a bundle adjustment."""

from __future__ import annotations

from dataclasses import dataclass

from nope_splat.utils.typing import Mask


@dataclass(frozen=True)
class BundleAdjustmentOptions:
    """What a bundle adjustment may change, when it ends and where it runs; names as in COLMAP.

    Each of K cameras has a focal length, a principal point and, as extra parameters, a radial distortion.
    """

    refine_focal_length: bool = True
    """Whether the focal lengths may change, unless the state holds them."""
    refine_principal_point: bool | Mask = False
    """Whether the principal points may change, or those of which cameras. () or (K,)."""
    refine_extra_params: bool | Mask = False
    """Whether the radial distortion may change, or that of which cameras. () or (K,)."""
    max_iterations: int = 25
    """Largest number of steps that lower the cost."""
    tolerance: float = 1e-5
    """The adjustment ends after a step that lowers the cost by less than this share of it."""
    device: str = "cpu"
    """Torch device."""
