"""Match graph, maximum spanning forest and tracks, compared to brute force on random matches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nope_splat.matching import Keypoints, PairMatches
from nope_splat.scene.tracks import build_tracks, connected_images, match_graph


def keypoints(counts: list[int]) -> list[Keypoints]:
    """Create keypoints whose coordinates encode the image index and the keypoint index."""
    return [
        Keypoints(
            np.stack([np.arange(count), np.full(count, image_id)], axis=1) + 0.5,
            np.zeros((count, 8), np.float32),
        )
        for image_id, count in enumerate(counts)
    ]


def pair(first: int, second: int, *indices: tuple[int, int]) -> PairMatches:
    return PairMatches(first, second, np.array(indices, dtype=np.int64).reshape(-1, 2), np.eye(3), 0.0)


def weighted_pair(first: int, second: int, weight: int) -> PairMatches:
    return pair(first, second, *((index, index) for index in range(weight)))


# --- Match graph ---


def test_the_spanning_tree_contains_the_strongest_pairs() -> None:
    graph = match_graph(4, [weighted_pair(0, 1, 50), weighted_pair(0, 2, 90), weighted_pair(1, 2, 70)])
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert graph.weights.tolist() == [50, 90, 70]
    assert sorted(graph.tree.tolist()) == [1, 2]
    assert [group.tolist() for group in connected_images(graph)] == [[0, 1, 2], [3]]


def test_a_graph_without_pairs_has_no_tree() -> None:
    graph = match_graph(3, [])
    assert graph.edges.shape == (0, 2)
    assert len(graph.tree) == 0
    assert [group.tolist() for group in connected_images(graph)] == [[0], [1], [2]]


edges = st.dictionaries(
    st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda edge: edge[0] < edge[1]),
    st.integers(1, 30),
    max_size=15,
)


@given(edges)
def test_the_forest_has_the_weight_of_kruskals_algorithm(weights: dict[tuple[int, int], int]) -> None:
    graph = match_graph(7, [weighted_pair(*edge, weight) for edge, weight in weights.items()])
    label = list(range(7))
    total = 0
    for (first, second), weight in sorted(weights.items(), key=lambda item: -item[1]):
        if label[first] != label[second]:
            total += weight
            label = [label[first] if value == label[second] else value for value in label]
    assert graph.weights[graph.tree].sum() == total
    groups = connected_images(graph)
    assert len(graph.tree) == 7 - len(groups)
    assert sorted(len(group) for group in groups) == sorted(label.count(value) for value in set(label))
    assert [len(group) for group in groups] == sorted((len(group) for group in groups), reverse=True)


# --- Tracks ---


def test_matches_are_joined_to_tracks_across_images() -> None:
    points = keypoints([3, 3, 3])
    tracks = build_tracks(points, [pair(0, 1, (2, 0), (0, 1)), pair(1, 2, (0, 1))])
    assert len(tracks) == 2
    assert tracks.observations.point_ids.tolist() == [0, 0, 1, 1, 1]
    assert tracks.observations.image_ids.tolist() == [0, 1, 0, 1, 2]
    assert tracks.keypoint_ids.tolist() == [0, 1, 2, 0, 1]
    assert tracks.observations.xy.tolist() == [[0.5, 0.5], [1.5, 1.5], [2.5, 0.5], [0.5, 1.5], [1.5, 2.5]]


def test_a_track_with_two_keypoints_in_one_image_is_dropped() -> None:
    wrong = [pair(0, 1, (0, 0)), pair(1, 2, (0, 0)), pair(0, 2, (1, 0))]
    tracks = build_tracks(keypoints([3, 3, 3]), [*wrong[:2], pair(0, 2, (1, 0), (2, 2))])
    assert tracks.observations.image_ids.tolist() == [0, 2]
    assert tracks.keypoint_ids.tolist() == [2, 2]
    assert len(build_tracks(keypoints([3, 3, 3]), wrong)) == 0


@pytest.mark.parametrize("counts", [[], [0, 0], [4, 0, 2]])
def test_without_matches_there_are_no_tracks(counts: list[int]) -> None:
    tracks = build_tracks(keypoints(counts), [])
    assert len(tracks) == 0
    assert tracks.observations.xy.shape == (0, 2)


matches = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda edge: edge[0] < edge[1]),
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=4),
)


@given(matches)
def test_tracks_are_the_consistent_components_of_the_matches(
    matches_by_pair: dict[tuple[int, int], set[tuple[int, int]]],
) -> None:
    pairs = [pair(*edge, *sorted(indices)) for edge, indices in matches_by_pair.items()]
    tracks = build_tracks(keypoints([5] * 4), pairs)

    groups = [{(image_id, index)} for image_id in range(4) for index in range(5)]
    for (first, second), indices in matches_by_pair.items():
        for left, right in indices:
            left_group = next(group for group in groups if (first, left) in group)
            right_group = next(group for group in groups if (second, right) in group)
            if left_group is not right_group:
                left_group |= right_group
                groups.remove(right_group)
    expected = sorted(
        sorted(group)
        for group in groups
        if len(group) >= 2 and len({image_id for image_id, _ in group}) == len(group)
    )
    observations = tracks.observations
    nodes = list(zip(observations.image_ids.tolist(), tracks.keypoint_ids.tolist(), strict=True))
    actual = [
        [node for node, point_id in zip(nodes, observations.point_ids, strict=True) if point_id == track_id]
        for track_id in range(len(tracks))
    ]
    assert actual == expected
    assert observations.xy.tolist() == [[index + 0.5, image_id + 0.5] for image_id, index in nodes]
