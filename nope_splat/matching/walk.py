"""Retrieval: which pairs to match, round by round, as the matches of earlier rounds come in.

Photographs that look most alike are matched first (see `retrieval`). What is found tells more than looks do:
if b shows some of its points to a and to c, then these show them to each other. So each photograph goes on to
the one with which it has most in common by way of a third, for as long as that pays. Where matches lead no
further, looks have another word: photographs that look alike but have nothing in common so far may close a
loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .retrieval import Likeness
from .settings import MatchingSettings
from .types import Keypoints, MatchedPairs, PairMatches

NEAREST = 4
"""How many of those that look most like a photograph are matched with it first."""
MANY = 60
"""Matches of a pair that make it worth while to go on to the next."""
ENOUGH = 6
"""Partners up to which a photograph goes on in any case."""


def walk(
    keypoints: Sequence[Keypoints], settings: MatchingSettings, matched: MatchedPairs
) -> Iterator[list[tuple[int, int]]]:
    """Choose pairs of photographs round by round, by what the matches of earlier rounds have shown.

    Args:
        keypoints: Keypoints of each photograph, with descriptors, in the order of the photographs.
        settings: How to choose.
        matched: Has to hold the matches of every pair when the next round is asked for.

    Yields:
        Pairs of indices, the lesser one first, in ascending order; none twice.
    """
    num_photos = len(keypoints)
    likeness = Likeness.of(keypoints, settings.seed)
    near = np.zeros((num_photos, num_photos), bool)
    order = np.argsort(-likeness.similarity, axis=1, kind="stable")
    np.put_along_axis(near, order[:, : settings.num_partners], True, axis=1)
    tried = np.eye(num_photos, dtype=bool)
    common = _Common(keypoints)
    # Whether each photograph still asks for partners, in either way; and who asked for a pair of this round.
    by_matches, by_looks = np.ones((2, num_photos), bool)
    asking, asked = by_looks, {}
    pairs = likeness.most_similar(min(NEAREST, settings.num_partners))
    while pairs:
        yield pairs
        for pair in pairs:
            found = matched[pair]
            tried[pair] = tried[pair[::-1]] = True
            if found is not None:
                common.add(found)
            for photo in asked.get(pair, ()):
                if found is not None and len(found.indices) >= MANY:
                    by_matches[photo] = True  # looks may have led to new ground
                elif common.num_partners[photo] >= ENOUGH:
                    asking[photo] = False
        known = common.counts >= settings.min_matches
        asking, asked = by_matches, _best(np.where(known & ~tried, common.counts, -1), by_matches)
        if not asked:
            few = common.num_partners < ENOUGH
            open_ = near & ~tried & (few[:, None] | (likeness.beyond_chance & ~known))
            asking, asked = by_looks, _best(np.where(open_, likeness.similarity + 1, -1), by_looks)
        pairs = sorted(asked)


class _Common:
    """What pairs of photographs have in common by way of a third."""

    def __init__(self, keypoints: Sequence[Keypoints]) -> None:
        self.counts = np.zeros((len(keypoints), len(keypoints)), np.int64)
        """Most keypoints of any one photograph that match keypoints of both. (N, N)."""
        self.num_partners = np.zeros(len(keypoints), np.int64)
        """With how many others each photograph has been matched. (N,)."""
        self._num_keypoints = [len(one.xy) for one in keypoints]
        self._matched: list[dict[int, NDArray[np.int64]]] = [{} for _ in keypoints]

    def add(self, pair: PairMatches) -> None:
        """Count the matches of one more pair."""
        for photo, partner, indices in (
            (pair.first, pair.second, pair.indices[:, 0]),
            (pair.second, pair.first, pair.indices[:, 1]),
        ):
            seen = np.zeros(self._num_keypoints[photo], bool)
            seen[indices] = True
            for other, theirs in self._matched[photo].items():
                count = max(np.count_nonzero(seen[theirs]), self.counts[partner, other])
                self.counts[partner, other] = self.counts[other, partner] = count
            self._matched[photo][partner] = indices
            self.num_partners[photo] += 1


def _best(scores: NDArray[np.number], asking: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """The partner with the highest score of each photograph that asks; none if all of them are negative.

    Returns:
        Pairs, the lesser index first, and who of the two asked.
    """
    asked: dict[tuple[int, int], list[int]] = {}
    for photo in np.flatnonzero(asking & (scores.max(axis=1) >= 0)).tolist():
        partner = int(scores[photo].argmax())
        asked.setdefault((min(photo, partner), max(photo, partner)), []).append(photo)
    return asked
