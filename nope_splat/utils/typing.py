"""Type aliases for NumPy arrays: floating-point arrays, int64 indices and boolean masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
