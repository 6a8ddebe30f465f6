"""The pairs that are matched: all, neighbors in sequence, or images that look alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fixtures.synthetic import unit

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.io.images import find_images
from nope_splat.matching import Keypoints, MatchingSettings, choose_pairs, extract_keypoints, match_chosen
from nope_splat.matching.retrieval import expanded_similarity

SETTINGS = MatchingSettings()


def blank(count: int) -> list[Keypoints]:
    return [Keypoints(np.zeros((0, 2)), np.zeros((0, 8), np.float32)) for _ in range(count)]


def test_all_pairs_are_chosen_up_to_the_limit_and_a_few_beyond() -> None:
    three = blank(3)
    assert choose_pairs(three, replace(SETTINGS, max_exhaustive_images=3)) == [(0, 1), (0, 2), (1, 2)]
    assert choose_pairs(three, replace(SETTINGS, max_exhaustive_images=2)) == []  # nothing looks alike
    assert choose_pairs(three, replace(SETTINGS, max_exhaustive_images=2, pairs="exhaustive")) != []


def test_images_in_sequence_have_half_of_their_partners_on_each_side() -> None:
    pairs = choose_pairs(blank(6), replace(SETTINGS, pairs="sequential", num_partners=4))
    assert pairs == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
    one = choose_pairs(blank(3), replace(SETTINGS, pairs="sequential", num_partners=1))
    assert one == [(0, 1), (1, 2)]


def test_retrieval_pairs_images_of_the_same_thing() -> None:
    """Three things, four images of each in turn, and one image of nothing.

    The things have nothing in common; only where they are most alike are they compared, lest groups that
    overlap a little stay apart.
    """
    rng = np.random.default_rng(0)
    things = unit(rng.random((3, 300, 32)) ** 4)
    keypoints = [
        Keypoints(np.zeros((200, 2)), unit(things[image_id % 3, rng.permutation(300)[:200]] + noise))
        for image_id, noise in enumerate(0.03 * rng.standard_normal((12, 200, 32)))
    ]
    keypoints.append(Keypoints(np.zeros((0, 2)), np.zeros((0, 32), np.float32)))
    pairs = choose_pairs(keypoints, replace(SETTINGS, pairs="retrieval", num_partners=3))
    same = {(i, j) for i in range(12) for j in range(i + 1, 12) if i % 3 == j % 3}
    assert same < set(pairs)
    assert len(pairs) == len(same) + 2
    assert {frozenset((i % 3, j % 3)) for i, j in set(pairs) - same} < {
        frozenset(two) for two in ((0, 1), (0, 2), (1, 2))
    }


def test_retrieval_spares_what_is_alike_by_chance_only() -> None:
    """Twenty things, two images of each: beyond its one, an image has half of its partners."""
    rng = np.random.default_rng(0)
    things = unit(rng.random((20, 100, 32)) ** 4)
    keypoints = [
        Keypoints(np.zeros((100, 2)), unit(things[image_id % 20] + noise))
        for image_id, noise in enumerate(0.03 * rng.standard_normal((40, 100, 32)))
    ]
    pairs = choose_pairs(keypoints, replace(SETTINGS, pairs="retrieval", num_partners=12))
    assert {(image_id, image_id + 20) for image_id in range(20)} <= set(pairs)
    partners = np.bincount(np.ravel(pairs), minlength=40)
    assert partners.min() >= 6
    assert len(pairs) < 40 * 8


def test_retrieval_prefers_what_those_between_have_in_common_with_both() -> None:
    """The ends of a walk of three show little of the same, but both what the middle shows."""
    similarity = np.eye(4)
    similarity[0, 1] = similarity[1, 2] = 0.5
    similarity[0, 2], similarity[0, 3] = 0.10, 0.11  # by chance, a fourth looks more like the first
    similarity = np.maximum(similarity, similarity.T) - np.eye(4)
    expanded = expanded_similarity(similarity, np.where(similarity > 0.3, similarity, 0))
    np.testing.assert_allclose(expanded, expanded.T)
    assert expanded[0, 1] > expanded[0, 2] > 2 * expanded[0, 3]
    alone = expanded_similarity(similarity, np.zeros_like(similarity))  # nothing to expand by
    np.testing.assert_allclose(alone, similarity + np.eye(4))


def test_retrieval_finds_the_pairs_that_overlap(tmp_path: Path) -> None:
    """Fewer than half of the pairs, those most alike, hold nine in ten of those that match well.

    Where the matches of these lead on, the others are found, and each pair's matches are what they are.
    """
    images = find_images(render_demo_scene(tmp_path, DemoSceneConfig(30, (240, 180)))).images
    keypoints = extract_keypoints(images, SETTINGS)
    every = {(pair.first, pair.second): pair for pair in match_chosen(keypoints, SETTINGS)}
    strong = {key for key, pair in every.items() if len(pair.indices) >= 60}
    retrieval = replace(SETTINGS, pairs="retrieval", num_partners=20)
    chosen = choose_pairs(keypoints, retrieval)
    assert len(strong) > 60
    assert len(chosen) < 30 * 29 / 4
    assert len(strong & set(chosen)) >= 0.9 * len(strong)
    found = {(pair.first, pair.second): pair for pair in match_chosen(keypoints, retrieval)}
    assert len(strong & set(found)) >= 0.97 * len(strong)
    assert list(found) == sorted(found)
    for key, pair in found.items():
        np.testing.assert_array_equal(pair.indices, every[key].indices)
