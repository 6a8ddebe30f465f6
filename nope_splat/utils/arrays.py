"""Formulas that hold for NumPy arrays and for PyTorch tensors."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AnyArray = TypeVar("AnyArray", NDArray[Any], Tensor)
"""A NumPy array or a PyTorch tensor; all arguments of a call are of the same kind."""


def namespace(array: NDArray[Any] | Tensor) -> Any:
    """Return the module whose functions take an array: `numpy` or `torch`.

    Only functions with the same name and positional arguments in both may be called, such as `stack`,
    `concatenate`, `where` and `einsum`.
    """
    return torch if isinstance(array, Tensor) else np
