"""Which pairs of photographs are matched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from .settings import MatchingSettings
from .types import Keypoints


def choose_pairs(keypoints: Sequence[Keypoints], settings: MatchingSettings) -> list[tuple[int, int]]:
    """Choose the pairs of photographs to match.

    Args:
        keypoints: Keypoints of each photograph, with descriptors, in the order of the photographs.
        settings: How to choose.

    Returns:
        Pairs of indices, the lesser one first, in ascending order.
    """
    num_photos = len(keypoints)
    pairs = settings.pairs
    if pairs is None:
        pairs = "exhaustive" if num_photos <= settings.max_exhaustive_photos else "retrieval"
    if pairs == "retrieval":
        from .retrieval import most_similar

        return most_similar(keypoints, settings.num_partners, settings.seed)
    # Half of the partners come before a photograph, half after it.
    reach = num_photos if pairs == "exhaustive" else (settings.num_partners + 1) // 2
    return [pair for pair in combinations(range(num_photos), 2) if pair[1] - pair[0] <= reach]
