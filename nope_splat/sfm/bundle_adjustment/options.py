"""Options of a bundle adjustment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nope_splat.utils.typing import Mask


@dataclass(frozen=True)
class BundleAdjustmentOptions:
    """Options of a bundle adjustment, named as in COLMAP.

    Each of the K cameras has a focal length, a principal point and, as extra parameters, distortion.
    """

    refine_focal_length: bool = True
    """Whether to refine the focal lengths; they are never refined if `SfmState.fix_focal` is set."""
    refine_principal_point: bool | Mask = False
    """Whether to refine the principal points: a single flag for all K cameras, or one flag per camera
    (K,)."""
    refine_extra_params: bool | Mask = False
    """Whether to refine the distortion: a single flag for all coefficients, or one flag per camera and
    coefficient k1, k2, k3, k4, p1 and p2 (K, 6)."""
    min_num_observations: int = 20
    """Minimum number of observations; with fewer observations, the bundle adjustment is skipped."""
    max_iterations: int = 25
    """Maximum number of accepted Levenberg-Marquardt steps."""
    tolerance: float = 1e-5
    """The bundle adjustment stops when a step reduces the cost by less than this fraction of the cost."""
    clear_cost: float = math.inf
    """The bundle adjustment stops when its final cost will clearly be larger than this value (see
    `LevenbergMarquardtConfig.clear_cost`)."""
    device: str = "cpu"
    """PyTorch device on which the bundle adjustment runs."""
