"""Support for functions that accept both NumPy arrays and PyTorch tensors."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AnyArray = TypeVar("AnyArray", NDArray[Any], Tensor)
"""Type variable for functions whose array arguments are either all NumPy arrays or all PyTorch tensors."""


def namespace(array: NDArray[Any] | Tensor) -> Any:
    """Return the module whose functions accept an array: `numpy` for a NumPy array, `torch` for a tensor.

    Use only functions that have the same name and positional arguments in both modules, such as `stack`,
    `concatenate`, `where` and `einsum`.
    """
    return torch if isinstance(array, Tensor) else np
