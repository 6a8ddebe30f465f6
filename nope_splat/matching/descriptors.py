"""Nearest neighbours among descriptors: one matrix product per pair of photographs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 1024
"""Descriptors compared at once: a block of similarities that stays in the processor's cache."""


STEPS = 254
"""Steps of a rounded descriptor's entry between 0 and 1. Entries beyond a half, which 7 bits do not hold, are
those of descriptors with next to nothing else in them."""


class Descriptors(NamedTuple):
    """Descriptors of one photograph, ready to be compared."""

    exact: Tensor
    """Unit-length descriptors without negative entries. (K, D), float32."""
    rounded: Tensor
    """The same in units of 1 / `STEPS`. (K, D), int8 or float32."""

    @classmethod
    def prepare(cls, descriptors: Tensor) -> Descriptors:
        """Round descriptors to 7 bits, of which integer arithmetic computes similarities.

        Processors with instructions for products of bytes compare these in a fraction of the time. Others get
        floating-point numbers, in which the same integers are exact too: all find the same.

        Args:
            descriptors: Unit-length descriptors without negative entries. (K, D), float32.
        """
        rounded = (STEPS * descriptors).round().clamp(max=127)
        if descriptors.device.type == "cpu" and _multiplies_bytes():
            rounded = rounded.to(torch.int8)
        return cls(descriptors, rounded)


def match_descriptors(first: Descriptors, second: Descriptors, ratio: float) -> Tensor:
    """Match descriptors by Lowe's ratio test and a mutual check.

    The two nearest are found among the rounded descriptors, and compared by the exact ones.

    Args:
        first: Descriptors of the first photograph, K.
        second: Descriptors of the second photograph, on the same device.
        ratio: The nearest descriptor must be closer than this times the second nearest.

    Returns:
        Indices into `first` (ascending) and `second`. (M, 2), int64, on the same device.
    """
    num_first, num_second = len(first.rounded), len(second.rounded)
    if num_first == 0 or num_second < 2:
        return torch.zeros((0, 2), dtype=torch.int64, device=first.exact.device)
    bytewise = first.rounded.dtype == torch.int8
    multiply, kind = torch.mm, torch.float32
    if bytewise:
        multiply, kind = torch._int_mm, torch.int32  # pyright: ignore[reportPrivateImportUsage]
    # New memory is slow: one block serves again and again.
    block = first.rounded.new_empty(min(ROWS, num_first), num_second, dtype=kind)
    candidates, nearest = [], []
    for start in range(0, num_first, ROWS):
        part = first.rounded[start : start + ROWS]
        similarity = multiply(part, second.rounded.T, out=block[: len(part)])
        best = _argmax(similarity)
        runner_up = _argmax(similarity.scatter_(1, best[:, None], -1))
        exact = first.exact[start : start + ROWS]
        similar, less_similar = (torch.linalg.vecdot(exact, second.exact[i]) for i in (best, runner_up))
        best = torch.where(less_similar > similar, runner_up, best)
        similar, less_similar = torch.maximum(similar, less_similar), torch.minimum(similar, less_similar)
        # For unit vectors |a - b|^2 = 2 - 2 a.b, so the nearest is the most similar.
        kept = torch.nonzero(1 - similar < ratio**2 * (1 - less_similar))[:, 0]
        candidates.append(kept + start)
        nearest.append(best[kept])
    rows, columns = torch.cat(candidates), torch.cat(nearest)
    # The way back is needed for the candidates only, a tenth of the descriptors.
    mutual = _argmax(multiply(second.rounded[columns], first.rounded.T)) == rows
    return torch.stack([rows[mutual], columns[mutual]], dim=1)


def _multiplies_bytes() -> bool:
    """Whether this processor has such instructions and torch knows them."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)() and hasattr(torch, "_int_mm")


def _argmax(similarity: Tensor) -> Tensor:
    """Index of the largest entry of each row; on a CPU by numpy, which is five times as fast there."""
    if similarity.device.type == "cpu":
        return torch.from_numpy(similarity.numpy().argmax(axis=1))
    return similarity.argmax(dim=1)
