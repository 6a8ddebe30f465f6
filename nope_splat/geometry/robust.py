"""Robust statistics: the scale of noise among outliers, and how much these weigh."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CAUCHY = 2.385
"""Residual in standard deviations at which the Cauchy function flattens: 95 % efficient for normal noise."""
SIGMA_OF_MEDIAN = 1.4826
"""Standard deviation of normal noise as a multiple of the median of its absolute values."""


def robust_sigma(absolute: NDArray[Any] | Tensor) -> float:
    """Standard deviation of noise by the median of its absolute values, as if it were normal.

    Args:
        absolute: Absolute values of the residuals, at least one. Any shape.
    """
    median = absolute.median() if isinstance(absolute, Tensor) else np.median(absolute)
    return SIGMA_OF_MEDIAN * float(median)
