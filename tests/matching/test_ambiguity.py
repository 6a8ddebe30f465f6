"""Repeating patterns and second motions are measured; wrong matches alone are neither."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fixtures.synthetic import make_scene, ring, unit
from numpy.typing import NDArray

from nope_splat.matching import Keypoints, MatchingSettings, PairMatches
from nope_splat.matching.ambiguity import count_second_motion, measure_repetition
from nope_splat.matching.verification import verify_pair


def two_motions(num_second: int, noise: float) -> tuple[list[Keypoints], NDArray[np.int64]]:
    """Make matches of two images: 300 of a scene, and more of things that move otherwise, or at random."""
    scene = make_scene(poses=ring(2, arc=20), num_points=300, wrong=0.0)
    other = make_scene(poses=ring(2, arc=-30, seed=3), num_points=400, wrong=0.0)
    rng = np.random.default_rng(1)
    (pair,), (other_pair,) = scene.matches.pairs, other.matches.pairs
    keypoints, columns = [], []
    for image_id in range(2):
        own = scene.keypoints[image_id].xy[pair.indices[:, image_id]]
        moving = other.keypoints[image_id].xy[other_pair.indices[:num_second, image_id]]
        if noise:
            moving = rng.uniform(0, (640, 480), moving.shape)
        xy = np.concatenate([own, moving])
        keypoints.append(Keypoints(xy, np.zeros((len(xy), 0), np.float32)))
        columns.append(np.arange(len(xy)))
    return keypoints, np.stack(columns, axis=1)


def with_second_motion(keypoints: list[Keypoints], indices: NDArray[np.int64]) -> PairMatches:
    verified = verify_pair(0, 1, indices, keypoints, MatchingSettings())
    assert verified is not None
    return count_second_motion(verified, indices, keypoints, MatchingSettings())


def test_a_second_motion_is_counted() -> None:
    pair = with_second_motion(*two_motions(80, noise=0.0))
    assert 50 < pair.num_second_motion <= 80


@pytest.mark.parametrize("num_wrong", [0, 40, 80])
def test_wrong_matches_are_no_motion(num_wrong: int) -> None:
    assert with_second_motion(*two_motions(num_wrong, noise=1.0)).num_second_motion == 0


def test_a_pattern_that_repeats() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(15)), axis=-1).reshape(-1, 2) * 32.0 + 16
    places = np.arange(len(grid))
    for num_kinds, low, high in ((len(grid), 0.0, 0.05), (10, 0.6, 1.0)):
        kinds = unit(rng.normal(size=(num_kinds, 64)))[places % num_kinds]
        keypoints = [Keypoints(grid, unit(kinds + rng.normal(0, 0.02, kinds.shape))) for _ in range(2)]
        pair = PairMatches(0, 1, np.stack([places, places], axis=1), np.eye(3), 0.0)
        shares = measure_repetition(keypoints, [pair], MatchingSettings().ambiguity)
        assert ((shares >= low) & (shares <= high)).all()


def test_without_descriptors_nothing_repeats() -> None:
    keypoints, indices = two_motions(0, noise=0.0)
    pair = PairMatches(0, 1, indices, np.eye(3), 0.0)
    assert measure_repetition(keypoints, [replace(pair)], MatchingSettings().ambiguity).tolist() == [0, 0]
