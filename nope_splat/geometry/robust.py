"""Robust statistics: noise scale with outliers, robust costs and their weights.

Divide residuals by their standard deviation before computing costs and weights with the default widths. The
weights are those of iteratively reweighted least squares. All functions accept NumPy arrays and PyTorch
tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nope_splat.utils.arrays import AnyArray, namespace

CAUCHY = 2.385
"""Default width of the Cauchy loss, in standard deviations. It gives 95 % statistical efficiency for normally
distributed residuals."""
HUBER = 1.345
"""Default width of the Huber loss, in standard deviations. It gives 95 % statistical efficiency for normally
distributed residuals (Huber 1964)."""
MAD_TO_SIGMA = 1.4826
"""Ratio of the standard deviation of normally distributed residuals to the median of their absolute
values."""
RAYLEIGH_MEDIAN = (2 * np.log(2)) ** 0.5
"""Median length of a 2D vector whose coordinates are independent and normally distributed with unit
variance."""
NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""


def robust_sigma(absolute: NDArray[Any] | Tensor) -> float:
    """Estimate the standard deviation of residuals with outliers from the median of their absolute values.

    Args:
        absolute: Absolute values of at least one residual, in any shape.

    Returns:
        Standard deviation of the inliers, in the unit of the residuals.
    """
    median = absolute.median() if isinstance(absolute, Tensor) else np.median(absolute)
    return MAD_TO_SIGMA * float(median)


def cauchy_cost(squared: AnyArray, width: float = CAUCHY) -> AnyArray:
    """Compute the Cauchy loss c^2 log(1 + r^2 / c^2).

    Args:
        squared: Squared residuals r^2, in squared standard deviations. (...).
        width: Width c in standard deviations. Residuals well above c have little influence.

    Returns:
        Costs. (...).
    """
    return width**2 * namespace(squared).log1p(squared / width**2)


def cauchy_weight(squared: AnyArray, width: float = CAUCHY) -> AnyArray:
    """Compute the weights 1 / (1 + r^2 / c^2) of the Cauchy loss.

    Args:
        squared: Squared residuals r^2, in squared standard deviations. (...).
        width: Width c in standard deviations.

    Returns:
        Weights from 0 to 1. (...).
    """
    return 1 / (1 + squared / width**2)


def huber_cost(squared: AnyArray, width: float = HUBER) -> AnyArray:
    """Compute the Huber loss: r^2 up to the width c, and 2 c r - c^2 beyond.

    Args:
        squared: Squared residuals r^2. (...).
        width: Width c, in the unit of r. Larger residuals are outliers, whose cost grows linearly.

    Returns:
        Costs. (...).
    """
    xp, beyond = namespace(squared), squared > width**2
    # The square root has no derivative at zero, so compute it only for residuals beyond the width.
    length = xp.sqrt(xp.where(beyond, squared, width**2))
    return xp.where(beyond, 2 * width * length - width**2, squared)


def huber_weight(length: AnyArray, width: float = HUBER) -> AnyArray:
    """Compute the weights min(1, c / r) of the Huber loss.

    Args:
        length: Nonnegative residuals r. (...).
        width: Width c, in the unit of r.

    Returns:
        Weights from 0 to 1. (...).
    """
    ratio: Any = width / length.clip(1e-12)
    return ratio.clip(None, 1.0)
