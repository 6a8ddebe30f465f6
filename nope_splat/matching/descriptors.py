"""Nearest-neighbor matching of keypoint descriptors by matrix products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CPU_BLOCK_SIZE = 2**21
"""Number of descriptor similarities computed at once on a CPU. A block of this size fits into the processor's
cache."""
GPU_BLOCK_SIZE = 2**24
"""Number of descriptor similarities computed at once on a GPU (64 MB). On a GPU, large blocks are faster."""

QUANTIZATION_FACTOR = 254
"""Factor by which descriptor entries, 0 to 1, are multiplied before they are rounded to integers of 7 bits.
Entries above 1/2 would exceed 127 and are clamped to 127. They are rare: a unit-length descriptor with such
an entry has hardly any other large entries."""


class Descriptors(NamedTuple):
    """Descriptors of the K keypoints of one image, prepared for matching."""

    exact: Tensor
    """Unquantized descriptors, non-negative and of unit length. (K, D), float32."""
    quantized: Tensor
    """Descriptors multiplied by `QUANTIZATION_FACTOR` and rounded. (K, D), int8; float32 on processors
    without int8 dot products."""

    @classmethod
    def prepare(cls, descriptors: Tensor) -> Descriptors:
        """Quantize descriptors to 7 bits, so that similarities can be computed in integer arithmetic.

        Processors with int8 dot products compare quantized descriptors much faster. Other processors store
        the same integers as float32, which represents them exactly, so all devices find the same matches. On
        a GPU, descriptors are stored as int8 to save memory, and converted to float32 when a pair is matched.

        Args:
            descriptors: Non-negative unit-length descriptors. (K, D), float32.
        """
        quantized = (QUANTIZATION_FACTOR * descriptors).round_().clamp_(max=127)
        if descriptors.is_cuda or _has_int8_products():
            quantized = quantized.to(torch.int8)
        return cls(descriptors, quantized)


def match_descriptors(first: Descriptors, second: Descriptors, ratio: float) -> Tensor:
    """Match descriptors by Lowe's ratio test and a mutual nearest-neighbor check.

    The two nearest neighbors are found with quantized descriptors; the ratio test uses the exact descriptors.

    Args:
        first: Descriptors of the first image.
        second: Descriptors of the second image, on the same device.
        ratio: Upper limit of d1 / d2, where d1 and d2 are the distances to the nearest and to the second
            nearest descriptor.

    Returns:
        Matches: keypoint indices in the first image (ascending) and in the second image. (M, 2), int64, on
        the same device.
    """
    quantized_first, quantized_second = first.quantized, second.quantized
    if len(quantized_first) == 0 or len(quantized_second) < 2:
        return torch.zeros((0, 2), dtype=torch.int64, device=first.exact.device)
    multiply, dtype = torch.mm, torch.float32
    if quantized_first.is_cuda:
        quantized_first, quantized_second = quantized_first.float(), quantized_second.float()
    elif quantized_first.dtype == torch.int8:
        multiply, dtype = torch._int_mm, torch.int32  # pyright: ignore[reportPrivateImportUsage]
    block_size = GPU_BLOCK_SIZE if quantized_first.is_cuda else CPU_BLOCK_SIZE
    num_rows = max(block_size // len(quantized_second), 1)
    # Reuse one buffer, because page faults of newly allocated memory would dominate the time.
    block = quantized_first.new_empty(min(num_rows, len(quantized_first)), len(quantized_second), dtype=dtype)
    best_of_second = torch.zeros_like(block[0])
    candidates, similarities = [], []
    for start in range(0, len(quantized_first), num_rows):
        rows = slice(start, start + num_rows)
        similarity = block[: len(quantized_first[rows])]
        multiply(quantized_first[rows], quantized_second.T, out=similarity)
        best_of_second = torch.maximum(best_of_second, similarity.amax(dim=0))
        block_matches, block_similarities = _ratio_test(similarity, first.exact[rows], second.exact, ratio)
        block_matches[:, 0] += start
        candidates.append(block_matches)
        similarities.append(block_similarities)
    matches = torch.cat(candidates)
    matches = matches[torch.cat(similarities) == best_of_second[matches[:, 1]]]
    # Among equal descriptors of the first image, only the descriptor with the smallest index keeps the match.
    owner = matches.new_full((len(quantized_second),), len(quantized_first))
    owner.scatter_reduce_(0, matches[:, 1], matches[:, 0], "amin")
    return matches[owner[matches[:, 1]] == matches[:, 0]]


def _ratio_test(similarity: Tensor, first: Tensor, second: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Find the nearest neighbors that pass the ratio test, and their quantized similarities.

    Args:
        similarity: Inner products of the quantized descriptors; the function overwrites them. (K, L).
        first: Exact descriptors of the first image, one per row of `similarity`. (K, D).
        second: Exact descriptors of the second image, one per column of `similarity`. (L, D).
        ratio: Upper limit of the ratio of the distances to the nearest and to the second nearest descriptor.

    Returns:
        Keypoint indices of the M matches in the first and in the second image (M, 2), and the inner products
        of their quantized descriptors (M,).
    """
    best = _argmax(similarity)
    best_similarity = similarity.gather(1, best[:, None])
    runner_up = _argmax(similarity.scatter_(1, best[:, None], -1))
    largest, second_largest = (torch.linalg.vecdot(first, second[index]) for index in (best, runner_up))
    swapped = second_largest > largest  # quantization has changed the order of the two neighbors
    best = torch.where(swapped, runner_up, best)
    quantized = torch.where(swapped, similarity.gather(1, best[:, None])[:, 0], best_similarity[:, 0])
    largest, second_largest = torch.maximum(largest, second_largest), torch.minimum(largest, second_largest)
    # For unit vectors |a - b|^2 = 2 - 2 a.b, so the nearest descriptor has the largest inner product.
    kept = torch.nonzero(1 - largest < ratio**2 * (1 - second_largest))[:, 0]
    return torch.stack([kept, best[kept]], dim=1), quantized[kept]


def _has_int8_products() -> bool:
    """Check whether the processor has int8 dot products (VNNI) and torch supports them."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)() and hasattr(torch, "_int_mm")


def _argmax(similarity: Tensor) -> Tensor:
    """Find the column of the largest entry in each row. (K, L) -> (K,).

    On a CPU, numpy computes the result, because it is five times as fast as torch.
    """
    if similarity.device.type == "cpu":
        return torch.from_numpy(similarity.numpy().argmax(axis=1))
    return similarity.argmax(dim=1)
