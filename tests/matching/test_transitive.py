"""Transitive matching finds the pairs that share many points, in any capture, with few unnecessary trials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from fixtures.synthetic import unit
from numpy.typing import NDArray

from nope_splat.matching import Keypoints, MatchingSettings, PairMatches
from nope_splat.matching.transitive import transitive_pairs

SETTINGS = MatchingSettings()
OPTIONS = SETTINGS.transitive


class Capture:
    """Images that observe points with distinct descriptors; true matches replace descriptor matching.

    Args:
        point_ids: Indices of the points that each image observes.
        seed: Seed of descriptors and keypoint order.
    """

    def __init__(self, point_ids: list[NDArray[np.int64]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        descriptors = unit(rng.random((1 + max(int(ids.max()) for ids in point_ids), 32)) ** 4)
        self.point_ids = [rng.permutation(ids) for ids in point_ids]
        self.keypoints = [
            Keypoints(
                np.zeros((len(ids), 2)), unit(descriptors[ids] + 0.05 * rng.standard_normal((len(ids), 32)))
            )
            for ids in self.point_ids
        ]
        self.pairs = list(combinations(range(len(point_ids)), 2))
        self.strong = {pair for pair in self.pairs if self.num_shared(pair) >= OPTIONS.min_num_matches}

    def num_shared(self, pair: tuple[int, int]) -> int:
        """Count the points that both images observe."""
        return len(np.intersect1d(self.point_ids[pair[0]], self.point_ids[pair[1]]))

    def match(self, pair: tuple[int, int]) -> PairMatches | None:
        """Match the points that both images observe, if there are enough of them."""
        first, second = self.point_ids[pair[0]], self.point_ids[pair[1]]
        _, i, j = np.intersect1d(first, second, return_indices=True)
        if len(i) < SETTINGS.min_matches:
            return None
        return PairMatches(*pair, np.stack([i, j], axis=1), np.eye(3), 0.0)

    def tried_pairs(
        self,
        matched: dict[tuple[int, int], PairMatches | None] | None = None,
        sequential: Sequence[tuple[int, int]] = (),
    ) -> list[tuple[int, int]]:
        """Run transitive matching to its end, and return all pairs in the order of their rounds."""
        matched = {} if matched is None else matched
        tried: list[tuple[int, int]] = []
        for pairs in transitive_pairs(self.keypoints, SETTINGS, matched, sequential):
            assert pairs == sorted(pairs)
            assert all(first < second for first, second in pairs)
            tried += pairs
            matched.update({pair: self.match(pair) for pair in pairs})
        assert len(set(tried)) == len(tried)
        return tried


def street(num_images: int, step: int, window: int = 300) -> list[NDArray[np.int64]]:
    """Return the point indices of images along a street, each `step` points further than the one before."""
    return [step * image_id + np.arange(window) for image_id in range(num_images)]


def test_all_strong_pairs_of_a_street_are_matched() -> None:
    capture = Capture(street(100, step=30))
    tried = capture.tried_pairs()
    assert capture.strong <= set(tried)
    assert len(tried) < 1.5 * len(capture.strong) + 100
    assert len(tried) < len(capture.pairs) / 3


def test_images_that_all_overlap_are_matched_exhaustively() -> None:
    """The number of partners is not limited: each image gets 35, although `num_partners` is 20."""
    capture = Capture(street(36, step=2))
    assert len(capture.strong) == len(capture.pairs)
    assert set(capture.tried_pairs()) == set(capture.pairs)


def test_neighboring_frames_of_a_video_are_matched_first() -> None:
    """Loops are closed as for photos, and few pairs are tried in addition."""
    num_points = 60 * 50
    capture = Capture([ids % num_points for ids in street(60, step=50)])
    sequential = [(i, i + gap) for gap in (1, 2, 4, 8) for i in range(60 - gap)]
    tried = capture.tried_pairs(sequential=sequential)
    assert set(sequential) <= set(tried[: len(sequential) + 60 * OPTIONS.num_initial_partners])
    assert capture.strong <= set(tried)
    assert len(tried) < 1.2 * len(set(sequential) | set(capture.tried_pairs()))


def test_loops_are_closed() -> None:
    """The last images of a loop see the first points again, and no third image connects them."""
    num_points = 60 * 50
    capture = Capture([ids % num_points for ids in street(60, step=50)])
    loop_closures = {pair for pair in capture.strong if pair[1] - pair[0] > 30}
    assert len(loop_closures) >= 10
    assert loop_closures <= set(capture.tried_pairs())


def test_images_with_weak_pairs_only_get_partners() -> None:
    """Few images see each point, so no pair is strong; images still get the minimum number of partners."""
    capture = Capture(street(60, step=10, window=60))
    assert not capture.strong
    tried = set(capture.tried_pairs())
    verified = [pair for pair in tried if capture.match(pair) is not None]
    possible = [pair for pair in capture.pairs if capture.match(pair) is not None]
    num_partners = np.bincount(np.ravel(verified), minlength=60)
    num_possible = np.bincount(np.ravel(possible), minlength=60)
    assert (num_partners >= np.minimum(OPTIONS.min_num_partners, num_possible)).all()
    assert len(tried) < len(capture.pairs) / 2


def test_few_pairs_between_separate_streets_are_tried() -> None:
    """Between two streets with nothing in common, only the most similar images are tried."""
    capture = Capture(street(15, step=40) + [1000 + ids for ids in street(15, step=40)])
    tried = set(capture.tried_pairs())
    assert capture.strong <= tried
    assert sum(first < 15 <= second for first, second in tried) < 40


def test_a_resumed_run_tries_the_same_pairs() -> None:
    capture = Capture(street(40, step=30))
    expected = capture.tried_pairs()
    first_half = {pair: capture.match(pair) for pair in expected[: len(expected) // 2]}
    assert capture.tried_pairs(first_half) == expected


@pytest.mark.parametrize("num_textured", [0, 1, 2])
def test_images_without_keypoints_are_not_matched(num_textured: int) -> None:
    capture = Capture(street(3, step=10))
    blank = Keypoints(np.zeros((0, 2)), np.zeros((0, 32), np.float32))
    keypoints = [*capture.keypoints[:num_textured], blank, blank]
    matched: dict[tuple[int, int], PairMatches | None] = {(0, 1): capture.match((0, 1))}
    rounds = list(transitive_pairs(keypoints, SETTINGS, matched))
    assert rounds == ([[(0, 1)]] if num_textured == 2 else [])
