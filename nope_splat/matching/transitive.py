"""Retrieval: which pairs to match, round by round, as the matches of earlier rounds come in.

Images that look most alike are matched first (see `retrieval`). What is found tells more than looks do:
if b shows some of its points to a and to c, then these show them to each other. So each image goes on to
the one with which it has most in common by way of a third, unless a pair with as much in common was of no
use. Where matches lead no further, looks have another word: images that look alike but have nothing in
common so far may close a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.retrieval import ImageSimilarity
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches

NEAREST = 4
"""How many of those that look most like an image are matched with it first."""
MANY = 60
"""Matches of a pair that make it worth while to go on to the next."""
ENOUGH = 6
"""Partners up to which an image goes on in any case."""


def walk(
    keypoints: Sequence[Keypoints], settings: MatchingSettings, matched: MatchedPairs
) -> Iterator[list[tuple[int, int]]]:
    """Choose pairs of images round by round, by what the matches of earlier rounds have shown.

    Args:
        keypoints: Keypoints of each image, with descriptors, in the order of the images.
        settings: How to choose.
        matched: Has to hold the matches of every pair when the next round is asked for.

    Yields:
        Pairs of indices, the lesser one first, in ascending order; none twice.
    """
    num_images = len(keypoints)
    likeness = ImageSimilarity.of(keypoints, settings.seed)
    near = np.zeros((num_images, num_images), bool)
    order = np.argsort(-likeness.similarity, axis=1, kind="stable")
    np.put_along_axis(near, order[:, : settings.num_partners], True, axis=1)
    tried = np.eye(num_images, dtype=bool)
    common = _Common(keypoints)
    # What an image asks for has to have more in common with it than what was of no use so far.
    of_no_use = np.full(num_images, settings.min_matches - 1)
    by_looks, looked = np.ones(num_images, bool), False
    pairs = likeness.most_similar(min(NEAREST, settings.num_partners))
    while pairs:
        yield pairs
        for pair in pairs:
            found = matched[pair]
            tried[pair] = tried[pair[::-1]] = True
            if found is not None:
                common.add(found)
            if found is None or len(found.indices) < MANY:
                settled = [image_id for image_id in pair if common.num_partners[image_id] >= ENOUGH]
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
    """What pairs of images have in common by way of a third."""

    def __init__(self, keypoints: Sequence[Keypoints]) -> None:
        self.counts = np.zeros((len(keypoints), len(keypoints)), np.int64)
        """Most keypoints of any one image that match keypoints of both. (N, N)."""
        self.num_partners = np.zeros(len(keypoints), np.int64)
        """With how many others each image has been matched. (N,)."""
        self._num_keypoints = [len(one.xy) for one in keypoints]
        self._matched: list[dict[int, NDArray[np.int64]]] = [{} for _ in keypoints]

    def add(self, pair: PairMatches) -> None:
        """Count the matches of one more pair."""
        for image_id, partner, indices in (
            (pair.first, pair.second, pair.indices[:, 0]),
            (pair.second, pair.first, pair.indices[:, 1]),
        ):
            seen = np.zeros(self._num_keypoints[image_id], bool)
            seen[indices] = True
            for other, theirs in self._matched[image_id].items():
                count = max(np.count_nonzero(seen[theirs]), self.counts[partner, other])
                self.counts[partner, other] = self.counts[other, partner] = count
            self._matched[image_id][partner] = indices
            self.num_partners[image_id] += 1


def _best(scores: NDArray[np.number]) -> list[tuple[int, int]]:
    """The pairs of each image with the one of the highest score, if that is not negative; ascending."""
    image_ids = np.flatnonzero(scores.max(axis=1) >= 0)
    pairs = np.sort(np.stack([image_ids, scores[image_ids].argmax(axis=1)], axis=1), axis=1)
    return [(first, second) for first, second in np.unique(pairs, axis=0).tolist()]
