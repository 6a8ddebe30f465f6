"""Nearest neighbours among descriptors: one matrix product per pair of photographs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**20
"""Similarities computed at once: a block that stays in the processor's cache."""
BLOCK_ON_GPU = 2**26
"""The same on a GPU, which rather has few blocks: 256 MB."""

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
        rounded = (STEPS * descriptors).round_().clamp_(max=127)
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
    if len(first.rounded) == 0 or len(second.rounded) < 2:
        return torch.zeros((0, 2), dtype=torch.int64, device=first.exact.device)
    candidates, nearest = [], []
    for start, similarity in _similarities(first.rounded, second.rounded):
        best = _argmax(similarity)
        runner_up = _argmax(similarity.scatter_(1, best[:, None], -1))
        exact = first.exact[start : start + len(similarity)]
        similar, less_similar = (torch.linalg.vecdot(exact, second.exact[i]) for i in (best, runner_up))
        best = torch.where(less_similar > similar, runner_up, best)
        similar, less_similar = torch.maximum(similar, less_similar), torch.minimum(similar, less_similar)
        # For unit vectors |a - b|^2 = 2 - 2 a.b, so the nearest is the most similar.
        kept = torch.nonzero(1 - similar < ratio**2 * (1 - less_similar))[:, 0]
        candidates.append(kept + start)
        nearest.append(best[kept])
    rows, columns = torch.cat(candidates), torch.cat(nearest)
    # The way back is needed for the candidates only, a tenth of the descriptors.
    back = [_argmax(similarity) for _, similarity in _similarities(second.rounded[columns], first.rounded)]
    mutual = torch.cat([rows[:0], *back]) == rows
    return torch.stack([rows[mutual], columns[mutual]], dim=1)


def _similarities(first: Tensor, second: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Similarities of rounded descriptors, some rows at a time, each with the first row's index."""
    multiply, kind = torch.mm, torch.float32
    if first.dtype == torch.int8:
        multiply, kind = torch._int_mm, torch.int32  # pyright: ignore[reportPrivateImportUsage]
    rows = max((BLOCK_ON_GPU if first.is_cuda else BLOCK) // len(second), 1)
    # New memory is slow: one block serves again and again.
    block = first.new_empty(min(rows, len(first)), len(second), dtype=kind)
    for start in range(0, len(first), rows):
        part = first[start : start + rows]
        yield start, multiply(part, second.T, out=block[: len(part)])


def _multiplies_bytes() -> bool:
    """Whether this processor has such instructions and torch knows them."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)() and hasattr(torch, "_int_mm")


def _argmax(similarity: Tensor) -> Tensor:
    """Index of the largest entry of each row; on a CPU by numpy, which is five times as fast there."""
    if similarity.device.type == "cpu":
        return torch.from_numpy(similarity.numpy().argmax(axis=1))
    return similarity.argmax(dim=1)
