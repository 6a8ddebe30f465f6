"""Which pairs of photographs are matched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from nope_splat.errors import UserError

from .settings import MatchingSettings


def choose_pairs(photo_ids: Sequence[int], settings: MatchingSettings) -> list[tuple[int, int]]:
    """Choose the pairs to match among photographs: all of them.

    Args:
        photo_ids: Indices of the photographs.
        settings: The largest number of photographs of which all pairs are matched.

    Returns:
        Pairs of indices, the lesser one first.

    Raises:
        UserError: If there are too many photographs.
    """
    if len(photo_ids) > settings.max_exhaustive_photos:
        raise UserError(
            f"{len(photo_ids)} photographs are more than max-exhaustive-photos"
            f" ({settings.max_exhaustive_photos}), the most of which every pair is matched;"
            " give fewer photographs, or raise that setting and have patience"
        )
    return list(combinations(sorted(photo_ids), 2))
