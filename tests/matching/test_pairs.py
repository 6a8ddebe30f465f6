"""Selection of pairs: exhaustive, sequential and by retrieval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fixtures.synthetic import unit

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.io.images import ImageFile, find_images
from nope_splat.matching import Keypoints, MatchingSettings, choose_pairs, extract_keypoints, match_keypoints
from nope_splat.matching.pairs import frame_pairs
from nope_splat.matching.retrieval import expanded_similarity

SETTINGS = MatchingSettings()


def blank(count: int) -> list[Keypoints]:
    return [Keypoints(np.zeros((0, 2)), np.zeros((0, 8), np.float32)) for _ in range(count)]


def test_matching_is_exhaustive_up_to_the_limit() -> None:
    keypoints = blank(3)
    assert choose_pairs(keypoints, replace(SETTINGS, max_exhaustive_images=3)) == [(0, 1), (0, 2), (1, 2)]
    assert choose_pairs(keypoints, replace(SETTINGS, max_exhaustive_images=2)) == [], "no image is similar"
    assert choose_pairs(keypoints, replace(SETTINGS, max_exhaustive_images=2, pairs="exhaustive")) != []


def test_sequential_partners_lie_half_before_and_half_after_an_image() -> None:
    pairs = choose_pairs(blank(6), replace(SETTINGS, pairs="sequential", num_partners=4))
    assert pairs == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
    chain = choose_pairs(blank(3), replace(SETTINGS, pairs="sequential", num_partners=1))
    assert chain == [(0, 1), (1, 2)]


def test_frames_are_paired_at_doubling_distances_within_their_video() -> None:
    names = [None, *["a.mp4"] * 6, *["b.mp4"] * 3, None]
    images = [ImageFile(Path("x"), str(index), 64, 48, video=name) for index, name in enumerate(names)]
    distances = {(first, second): second - first for first, second in frame_pairs(images, 4)}
    assert {second - first for first, second in distances} == {1, 2, 4}
    assert sum(first < 7 for first, _ in distances) == 5 + 4 + 2
    assert sum(first >= 7 for first, _ in distances) == 2 + 1
    assert all(names[first] is not None and names[first] == names[second] for first, second in distances)
    assert {second - first for first, second in frame_pairs(images, 3)} == {1, 2}


def test_neighboring_frames_are_added_to_retrieval_only() -> None:
    """Images without keypoints have no similar images."""
    chain = [(0, 1), (1, 2)]
    assert choose_pairs(blank(4), replace(SETTINGS, pairs="retrieval"), chain) == chain
    assert choose_pairs(blank(4), replace(SETTINGS, pairs="sequential", num_partners=6), chain) == [
        *((first, second) for first in range(4) for second in range(first + 1, 4))
    ]


def test_retrieval_pairs_images_of_the_same_object() -> None:
    """Three objects with four images each, interleaved, and one image without keypoints.

    The objects have nothing in common. Two pairs across objects connect them, at the most similar images, in
    case their images overlap a little.
    """
    rng = np.random.default_rng(0)
    objects = unit(rng.random((3, 300, 32)) ** 4)
    keypoints = [
        Keypoints(np.zeros((200, 2)), unit(objects[image_id % 3, rng.permutation(300)[:200]] + noise))
        for image_id, noise in enumerate(0.03 * rng.standard_normal((12, 200, 32)))
    ]
    keypoints.append(Keypoints(np.zeros((0, 2)), np.zeros((0, 32), np.float32)))
    pairs = choose_pairs(keypoints, replace(SETTINGS, pairs="retrieval", num_partners=3))
    same = {(i, j) for i in range(12) for j in range(i + 1, 12) if i % 3 == j % 3}
    assert same < set(pairs)
    assert len(pairs) == len(same) + 2
    assert {frozenset((i % 3, j % 3)) for i, j in set(pairs) - same} < {
        frozenset(objects) for objects in ((0, 1), (0, 2), (1, 2))
    }


def test_retrieval_limits_partners_that_are_similar_by_chance() -> None:
    """With twenty objects and two images each, an image gets only the minimum number of partners."""
    rng = np.random.default_rng(0)
    objects = unit(rng.random((20, 100, 32)) ** 4)
    keypoints = [
        Keypoints(np.zeros((100, 2)), unit(objects[image_id % 20] + noise))
        for image_id, noise in enumerate(0.03 * rng.standard_normal((40, 100, 32)))
    ]
    pairs = choose_pairs(keypoints, replace(SETTINGS, pairs="retrieval", num_partners=12))
    assert {(image_id, image_id + 20) for image_id in range(20)} <= set(pairs)
    partners = np.bincount(np.ravel(pairs), minlength=40)
    assert partners.min() >= 6
    assert len(pairs) < 40 * 8


def test_query_expansion_raises_the_similarity_through_an_intermediate_image() -> None:
    """The first and the third image have little in common, but both overlap the second."""
    similarity = np.eye(4)
    similarity[0, 1] = similarity[1, 2] = 0.5
    similarity[0, 2], similarity[0, 3] = (
        0.10,
        0.11,
    )  # by chance, the fourth image is more similar to the first
    similarity = np.maximum(similarity, similarity.T) - np.eye(4)
    expanded = expanded_similarity(similarity, np.where(similarity > 0.3, similarity, 0), 5)
    np.testing.assert_allclose(expanded, expanded.T)
    assert expanded[0, 1] > expanded[0, 2] > 2 * expanded[0, 3]
    unexpanded = expanded_similarity(similarity, np.zeros_like(similarity), 5)
    np.testing.assert_allclose(unexpanded, similarity + np.eye(4))


def test_retrieval_finds_the_pairs_that_overlap(tmp_path: Path) -> None:
    """Retrieval selects 90% of the strong pairs among fewer than half of all pairs.

    Transitive matching then finds nearly all of them, with the same matches as exhaustive matching.
    """
    images = find_images(render_demo_scene(tmp_path, DemoSceneConfig(30, (240, 180)))).images
    keypoints = extract_keypoints(images, SETTINGS)
    exhaustive = {(pair.first, pair.second): pair for pair in match_keypoints(keypoints, SETTINGS)}
    strong = {key for key, pair in exhaustive.items() if len(pair.indices) >= 60}
    settings = replace(SETTINGS, pairs="retrieval", num_partners=20)
    similar = choose_pairs(keypoints, settings)
    assert len(strong) > 60
    assert len(similar) < 30 * 29 / 4
    assert len(strong & set(similar)) >= 0.9 * len(strong)
    transitive = {(pair.first, pair.second): pair for pair in match_keypoints(keypoints, settings)}
    assert len(strong & set(transitive)) >= 0.97 * len(strong)
    assert list(transitive) == sorted(transitive)
    for key, pair in transitive.items():
        np.testing.assert_array_equal(pair.indices, exhaustive[key].indices)
