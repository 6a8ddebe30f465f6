"""Retrieval finds the pairs that share many points, whatever the capture, and not many others."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from fixtures.synthetic import unit
from numpy.typing import NDArray

from nope_splat.matching import Keypoints, MatchingSettings, PairMatches
from nope_splat.matching.transitive import ENOUGH, MANY, walk

SETTINGS = MatchingSettings()


class Capture:
    """Images that see points, whose descriptors tell them apart; matches are known without matching."""

    def __init__(self, seen: list[NDArray[np.int64]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        points = unit(rng.random((1 + max(int(points.max()) for points in seen), 32)) ** 4)
        self.seen = [rng.permutation(points) for points in seen]
        self.keypoints = [
            Keypoints(np.zeros((len(ids), 2)), unit(points[ids] + 0.05 * rng.standard_normal((len(ids), 32))))
            for ids in self.seen
        ]
        self.pairs = list(combinations(range(len(seen)), 2))
        self.strong = {pair for pair in self.pairs if self.shared(pair) >= MANY}

    def shared(self, pair: tuple[int, int]) -> int:
        """How many points both see."""
        return len(np.intersect1d(self.seen[pair[0]], self.seen[pair[1]]))

    def match(self, pair: tuple[int, int]) -> PairMatches | None:
        """The points that both see, if they are enough to verify."""
        first, second = self.seen[pair[0]], self.seen[pair[1]]
        _, i, j = np.intersect1d(first, second, return_indices=True)
        if len(i) < SETTINGS.min_matches:
            return None
        return PairMatches(*pair, np.stack([i, j], axis=1), np.eye(3), 0.0)

    def walk(self, matched: dict[tuple[int, int], PairMatches | None] | None = None) -> list[tuple[int, int]]:
        """All pairs that a walk matches, in its order."""
        matched = {} if matched is None else matched
        tried: list[tuple[int, int]] = []
        for pairs in walk(self.keypoints, SETTINGS, matched):
            assert pairs == sorted(pairs)
            assert all(first < second for first, second in pairs)
            tried += pairs
            matched.update({pair: self.match(pair) for pair in pairs})
        assert len(set(tried)) == len(tried)
        return tried


def street(num_images: int, step: int, window: int = 300) -> list[NDArray[np.int64]]:
    """What the images of a walk along a street see: each is `step` points further than the last."""
    return [step * image_id + np.arange(window) for image_id in range(num_images)]


def test_a_street_is_walked_from_end_to_end() -> None:
    capture = Capture(street(100, step=30))
    tried = capture.walk()
    assert capture.strong <= set(tried)
    assert len(tried) < 1.5 * len(capture.strong) + 100
    assert len(tried) < len(capture.pairs) / 3


def test_where_all_images_see_the_same_all_pairs_are_matched() -> None:
    """No number of partners is too large: 35 of each here, where 20 most alike were asked for first."""
    capture = Capture(street(36, step=2))
    assert len(capture.strong) == len(capture.pairs)
    assert set(capture.walk()) == set(capture.pairs)


def test_a_walk_around_the_block_closes_its_loop() -> None:
    """The last images see the first points again, which no third image connects."""
    points = 60 * 50
    capture = Capture([image % points for image in street(60, step=50)])
    ends = {pair for pair in capture.strong if pair[1] - pair[0] > 30}
    assert len(ends) >= 10
    assert ends <= set(capture.walk())


def test_images_with_few_matches_each_still_get_partners() -> None:
    """Points that few images see: no pair has many matches, and each has those that there are."""
    capture = Capture(street(60, step=10, window=60))
    assert not capture.strong
    tried = set(capture.walk())
    found = [pair for pair in tried if capture.match(pair) is not None]
    possible = [pair for pair in capture.pairs if capture.match(pair) is not None]
    partners = np.bincount(np.ravel(found), minlength=60)
    assert (partners >= np.minimum(ENOUGH, np.bincount(np.ravel(possible), minlength=60))).all()
    assert len(tried) < len(capture.pairs) / 2


def test_two_streets_are_walked_each_for_itself() -> None:
    """Two streets with nothing in common: a few pairs between them are tried, where they are most alike."""
    capture = Capture(street(15, step=40) + [1000 + points for points in street(15, step=40)])
    tried = set(capture.walk())
    assert capture.strong <= tried
    assert sum(first < 15 <= second for first, second in tried) < 40


def test_what_was_matched_before_leads_the_same_way() -> None:
    """A run that goes on after an interruption asks for the pairs of the one that was interrupted."""
    capture = Capture(street(40, step=30))
    expected = capture.walk()
    half = {pair: capture.match(pair) for pair in expected[: len(expected) // 2]}
    assert capture.walk(half) == expected


@pytest.mark.parametrize("num_textured", [0, 1, 2])
def test_images_without_keypoints_are_matched_with_none(num_textured: int) -> None:
    capture = Capture(street(3, step=10))
    blank = Keypoints(np.zeros((0, 2)), np.zeros((0, 32), np.float32))
    keypoints = [*capture.keypoints[:num_textured], blank, blank]
    matched: dict[tuple[int, int], PairMatches | None] = {(0, 1): capture.match((0, 1))}
    rounds = list(walk(keypoints, SETTINGS, matched))
    assert rounds == ([[(0, 1)]] if num_textured == 2 else [])
