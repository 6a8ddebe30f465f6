"""Nearest neighbours among descriptors: one matrix product per pair of photographs."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 1024
"""Descriptors compared at once: a block of similarities that stays in the processor's cache."""


def match_descriptors(first: Tensor, second: Tensor, ratio: float) -> Tensor:
    """Match unit-length descriptors by Lowe's ratio test and a mutual check.

    Args:
        first: Descriptors of the first photograph. (K, D).
        second: Descriptors of the second photograph, on the same device. (L, D).
        ratio: The nearest descriptor must be closer than this times the second nearest.

    Returns:
        Indices into `first` (ascending) and `second`. (M, 2), int64, on the same device.
    """
    if len(first) == 0 or len(second) < 2:
        return torch.zeros((0, 2), dtype=torch.int64, device=first.device)
    # For unit vectors |a - b|^2 = 2 - 2 a.b, so the nearest is the most similar.
    block = first.new_empty(min(ROWS, len(first)), len(second))  # used again: new memory is slow
    candidates, nearest = [], []
    for start in range(0, len(first), ROWS):
        part = first[start : start + ROWS]
        similarity = torch.mm(part, second.T, out=block[: len(part)])
        index = _argmax(similarity)
        best = similarity.gather(1, index[:, None])[:, 0]
        similarity.scatter_(1, index[:, None], -2.0)
        second_best = similarity.amax(dim=1)
        kept = torch.nonzero(1 - best < ratio**2 * (1 - second_best))[:, 0]
        candidates.append(kept + start)
        nearest.append(index[kept])
    rows, columns = torch.cat(candidates), torch.cat(nearest)
    # The way back is needed for the candidates only, a tenth of the descriptors.
    mutual = _argmax(second[columns] @ first.T) == rows
    return torch.stack([rows[mutual], columns[mutual]], dim=1)


def _argmax(similarity: Tensor) -> Tensor:
    """Index of the largest entry of each row; on a CPU by numpy, which is five times as fast there."""
    if similarity.device.type == "cpu":
        return torch.from_numpy(similarity.numpy().argmax(axis=1))
    return similarity.argmax(dim=1)
