"""Nearest neighbors among descriptors: one matrix product per pair of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**21
"""Similarities computed at once: a block that stays in the processor's cache."""
BLOCK_ON_GPU = 2**24
"""The same on a GPU, which rather has few blocks: 64 MB."""

STEPS = 254
"""Steps of a rounded descriptor's entry between 0 and 1. Entries beyond a half, which 7 bits do not hold, are
those of descriptors with next to nothing else in them."""


class Descriptors(NamedTuple):
    """Descriptors of one image, ready to be compared."""

    exact: Tensor
    """Unit-length descriptors without negative entries. (K, D), float32."""
    rounded: Tensor
    """The same in units of 1 / `STEPS`. (K, D), int8, or float32 for processors that multiply no bytes."""

    @classmethod
    def prepare(cls, descriptors: Tensor) -> Descriptors:
        """Round descriptors to 7 bits, of which integer arithmetic computes similarities.

        Processors with instructions for products of bytes compare these in a fraction of the time. Others
        compare floating-point numbers, in which the same integers are exact too: all find the same. On a GPU
        bytes save memory, until a pair is compared.

        Args:
            descriptors: Unit-length descriptors without negative entries. (K, D), float32.
        """
        rounded = (STEPS * descriptors).round_().clamp_(max=127)
        if descriptors.is_cuda or _multiplies_bytes():
            rounded = rounded.to(torch.int8)
        return cls(descriptors, rounded)


def match_descriptors(first: Descriptors, second: Descriptors, ratio: float) -> Tensor:
    """Match descriptors by Lowe's ratio test and a mutual check.

    The two nearest are found among the rounded descriptors, and compared by the exact ones.

    Args:
        first: Descriptors of the first image, K.
        second: Descriptors of the second image, on the same device.
        ratio: The nearest descriptor must be closer than this times the second nearest.

    Returns:
        Indices into `first` (ascending) and `second`. (M, 2), int64, on the same device.
    """
    if len(first.rounded) == 0 or len(second.rounded) < 2:
        return torch.zeros((0, 2), dtype=torch.int64, device=first.exact.device)
    multiply, kind, rounded_first, rounded_second = torch.mm, torch.float32, first.rounded, second.rounded
    if rounded_first.is_cuda:
        rounded_first, rounded_second = rounded_first.float(), rounded_second.float()
    elif rounded_first.dtype == torch.int8:
        multiply, kind = torch._int_mm, torch.int32  # pyright: ignore[reportPrivateImportUsage]
    rows = max((BLOCK_ON_GPU if rounded_first.is_cuda else BLOCK) // len(rounded_second), 1)
    # New memory is slow: one block serves again and again.
    block = rounded_first.new_empty(min(rows, len(rounded_first)), len(rounded_second), dtype=kind)
    greatest = torch.zeros_like(block[0])
    candidates, similarities = [], []
    for start in range(0, len(rounded_first), rows):
        part = slice(start, start + rows)
        similarity = block[: len(rounded_first[part])]
        multiply(rounded_first[part], rounded_second.T, out=similarity)
        greatest = torch.maximum(greatest, similarity.amax(dim=0))
        found, rounded = _distinct(similarity, first.exact[part], second.exact, ratio)
        found[:, 0] += start
        candidates.append(found)
        similarities.append(rounded)
    matches = torch.cat(candidates)
    matches = matches[torch.cat(similarities) == greatest[matches[:, 1]]]
    # Of descriptors that are equal, the first has the match.
    owner = matches.new_full((len(second.rounded),), len(first.rounded))
    owner.scatter_reduce_(0, matches[:, 1], matches[:, 0], "amin")
    return matches[owner[matches[:, 1]] == matches[:, 0]]


def _distinct(similarity: Tensor, first: Tensor, second: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Matches by the ratio test, (M, 2), and their rounded similarities, (M,); overwrites those of others."""
    best = _argmax(similarity)
    of_best = similarity.gather(1, best[:, None])
    runner_up = _argmax(similarity.scatter_(1, best[:, None], -1))
    similar, less_similar = (torch.linalg.vecdot(first, second[index]) for index in (best, runner_up))
    swapped = less_similar > similar
    best = torch.where(swapped, runner_up, best)
    rounded = torch.where(swapped, similarity.gather(1, best[:, None])[:, 0], of_best[:, 0])
    similar, less_similar = torch.maximum(similar, less_similar), torch.minimum(similar, less_similar)
    # For unit vectors |a - b|^2 = 2 - 2 a.b, so the nearest is the most similar.
    kept = torch.nonzero(1 - similar < ratio**2 * (1 - less_similar))[:, 0]
    return torch.stack([kept, best[kept]], dim=1), rounded[kept]


def _multiplies_bytes() -> bool:
    """Whether this processor has such instructions and torch knows them."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)() and hasattr(torch, "_int_mm")


def _argmax(similarity: Tensor) -> Tensor:
    """Index of the largest entry of each row; on a CPU by numpy, which is five times as fast there."""
    if similarity.device.type == "cpu":
        return torch.from_numpy(similarity.numpy().argmax(axis=1))
    return similarity.argmax(dim=1)
