"""Retrieval: which pairs to match, round by round, as the matches of earlier rounds come in.

Photographs that look most alike are matched first (see `retrieval`). What is found tells more than looks do:
if b shows some of its points to a and to c, then these show them to each other. So each photograph goes on to
the one with which it has most in common by way of a third, unless a pair with as much in common was of no
use. Where matches lead no further, looks have another word: photographs that look alike but have nothing in
common so far may close a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.retrieval import Likeness
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches

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
    # What a photograph asks for has to have more in common with it than what was of no use so far.
    of_no_use = np.full(num_photos, settings.min_matches - 1)
    by_looks, looked = np.ones(num_photos, bool), False
    pairs = likeness.most_similar(min(NEAREST, settings.num_partners))
    while pairs:
        yield pairs
        for pair in pairs:
            found = matched[pair]
            tried[pair] = tried[pair[::-1]] = True
            if found is not None:
                common.add(found)
            if found is None or len(found.indices) < MANY:
                settled = [photo for photo in pair if common.num_partners[photo] >= ENOUGH]
                of_no_use[settled] = np.maximum(of_no_use[settled], common.counts[pair])
                by_looks[settled] &= not looked
        promising = common.counts > of_no_use[:, None]
        pairs = _best(np.where(promising & ~tried, common.counts, -1))
        looked = not pairs
        if looked:  # matches lead no further
            apart = likeness.beyond_chance & (common.counts < settings.min_matches)
            apart |= (common.num_partners < ENOUGH)[:, None]
            pairs = _best(np.where(apart & near & by_looks[:, None] & ~tried, likeness.similarity + 1, -1))


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


def _best(scores: NDArray[np.number]) -> list[tuple[int, int]]:
    """The pairs of each photograph with the one of the highest score, if that is not negative; ascending."""
    photos = np.flatnonzero(scores.max(axis=1) >= 0)
    pairs = np.sort(np.stack([photos, scores[photos].argmax(axis=1)], axis=1), axis=1)
    return [(first, second) for first, second in np.unique(pairs, axis=0).tolist()]
