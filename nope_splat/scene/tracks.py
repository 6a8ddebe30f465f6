"""Match graph, maximum spanning forest and feature tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from nope_splat.scene.features import Keypoints, PairMatches


@dataclass(frozen=True)
class Observations:
    """Observations of points in images, sorted by point, then by image."""

    point_ids: NDArray[np.int64]
    """Index of the observed point; in `Tracks`, index of the track. (O,)."""
    image_ids: NDArray[np.int64]
    """Index of the observing image. (O,)."""
    xy: NDArray[np.floating]
    """Observed position (x, y), in full-resolution pixels. (O, 2)."""

    def __len__(self) -> int:
        return len(self.point_ids)


@dataclass(frozen=True)
class Tracks:
    """Feature tracks: sets of matched keypoints of the same scene point, at most one keypoint per image."""

    observations: Observations
    """Keypoints of all tracks; `point_ids` contains track indices."""
    keypoint_ids: NDArray[np.int64]
    """For each observation, the index of its keypoint in the `Keypoints` of the image. (O,)."""
    noise: NDArray[np.floating]
    """Standard deviation of each observation, relative to the most precise keypoints, which have the value 1.
    (O,)."""

    def __len__(self) -> int:
        return int(self.observations.point_ids[-1]) + 1 if len(self.observations) else 0


@dataclass(frozen=True)
class MatchGraph:
    """Match graph: nodes are images, edges are verified pairs, and weights are numbers of matches."""

    num_images: int
    """Number of nodes, including images without edges."""
    edges: NDArray[np.int64]
    """Image indices of each verified pair. (E, 2)."""
    weights: NDArray[np.int64]
    """Number of verified matches of each pair. (E,)."""
    tree: NDArray[np.int64]
    """Edges of the maximum spanning forest, as indices into `edges`. (T,)."""


def match_graph(num_images: int, pairs: Sequence[PairMatches]) -> MatchGraph:
    """Build the match graph of verified pairs, with its maximum spanning forest.

    Args:
        num_images: Number of images.
        pairs: Verified pairs.

    Returns:
        The match graph.
    """
    edges = np.array([(pair.first, pair.second) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    weights = np.array([len(pair.indices) for pair in pairs], dtype=np.int64)
    return MatchGraph(num_images, edges, weights, maximum_spanning_forest(num_images, edges, weights))


def maximum_spanning_forest(
    num_nodes: int, edges: NDArray[np.int64], weights: NDArray[Any]
) -> NDArray[np.int64]:
    """Find the maximum spanning tree of each connected component of a graph.

    Args:
        num_nodes: Number of nodes.
        edges: The two nodes of each edge; each pair of nodes may occur only once. (E, 2).
        weights: Positive weight of each edge. (E,).

    Returns:
        Edges of the spanning trees, as indices into `edges`, ascending. (T,).
    """
    # A maximum spanning forest is a minimum spanning forest of the negated weights.
    graph = coo_array((-weights.astype(np.float64), edges.T), (num_nodes, num_nodes))
    forest = minimum_spanning_tree(graph.tocsr()).tocoo()
    in_forest = set(zip(forest.row.tolist(), forest.col.tolist(), strict=True))
    chosen = [index for index, edge in enumerate(edges.tolist()) if tuple(edge) in in_forest]
    return np.array(chosen, dtype=np.int64)


def connected_images(graph: MatchGraph) -> list[NDArray[np.int64]]:
    """Find the connected components of the match graph.

    Args:
        graph: The match graph.

    Returns:
        Image indices of each component in ascending order, largest component first. An image without verified
        pairs forms its own component.
    """
    num_components, labels = _label_components(graph.num_images, graph.edges)
    components = [np.flatnonzero(labels == label) for label in range(num_components)]
    return sorted(components, key=lambda image_ids: (-len(image_ids), image_ids[0]))


def build_tracks(keypoints: Sequence[Keypoints], pairs: Sequence[PairMatches]) -> Tracks:
    """Build tracks as the connected components of matched keypoints.

    Components with two keypoints in one image contain a wrong match and are discarded.

    Args:
        keypoints: Keypoints of each image.
        pairs: Verified pairs.

    Returns:
        The tracks, sorted by the image index and then the keypoint index of their first observation.
    """
    starts = np.concatenate([[0], np.cumsum([len(features.xy) for features in keypoints])]).astype(np.int64)
    links = [pair.indices + starts[[pair.first, pair.second]] for pair in pairs]
    _, labels = _label_components(int(starts[-1]), np.concatenate([np.zeros((0, 2), np.int64), *links]))

    # Drop components with one keypoint only, or with two keypoints in one image.
    image_ids = np.repeat(np.arange(len(keypoints)), np.diff(starts))
    lengths = np.bincount(labels)
    order = np.lexsort((image_ids, labels))
    repeated = (np.diff(labels[order]) == 0) & (np.diff(image_ids[order]) == 0)
    lengths[labels[order[1:]][repeated]] = 0
    nodes = order[lengths[labels[order]] >= 2]

    # Number the tracks in the order of their first nodes.
    _, first_node, inverse = np.unique(labels[nodes], return_index=True, return_inverse=True)
    track_ids = np.argsort(np.argsort(nodes[first_node]))
    point_ids = track_ids[inverse.ravel()]
    order = np.argsort(point_ids, kind="stable")
    nodes, point_ids = nodes[order], point_ids[order]

    xy = np.concatenate([np.zeros((0, 2)), *(features.xy for features in keypoints)])[nodes]
    image_ids = image_ids[nodes]
    noise = [features.noise_or_ones() for features in keypoints]
    return Tracks(
        Observations(point_ids, image_ids, xy),
        nodes - starts[image_ids],
        np.concatenate([np.zeros(0), *noise])[nodes],
    )


def _label_components(num_nodes: int, edges: NDArray[np.int64]) -> tuple[int, NDArray[np.int32]]:
    """Return the number of connected components of a graph, and the component of each node. (num_nodes,)."""
    graph = coo_array((np.ones(len(edges), dtype=np.int8), edges.T), (num_nodes, num_nodes))
    return connected_components(graph, directed=False)
