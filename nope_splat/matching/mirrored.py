"""Detection of mirrored images among ordinary images, by the SIFT descriptors of mirrored keypoints.

Mirroring an image permutes the entries of its SIFT descriptors. If one of two overlapping images is mirrored,
the images match if this permutation is applied to the descriptors of one image ("flipped" matches). Ordinary
matches are evidence that both images of a pair have the same chirality (both or neither are mirrored);
flipped matches are evidence that exactly one of them is mirrored. However, symmetric objects have flipped
matches in ordinary images: the left side of a car matches its mirrored right side. Therefore

- an ordinary match counts several times as much as a flipped match,
- the maximum spanning forest of this evidence decides which images have the same chirality. If a pair
  contradicts a chain of other pairs that connects the same two images, the pair with the weakest evidence
  in this cycle is not used.

If all images are mirrored, no image is reported, because the mirrored scene is consistent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nope_splat.matching.descriptors import Descriptors, match_descriptors
from nope_splat.matching.matching import (
    first_at_position,
    merge_duplicates,
    num_matching_threads,
    single_torch_thread,
)
from nope_splat.matching.options import MatchingSettings, MirroringOptions
from nope_splat.matching.stationary import stationary_keypoints, verify_without_stationary
from nope_splat.scene.features import Keypoints, PairMatches
from nope_splat.scene.stationary import StationaryPixels
from nope_splat.scene.tracks import maximum_spanning_forest
from nope_splat.utils.device_defaults import network_device

NUM_CELLS, NUM_ORIENTATIONS = 4, 8
"""Number of cells of a SIFT descriptor along each axis of the keypoint's frame, and number of gradient
orientations per cell."""


def find_mirrored_images(
    keypoints: Sequence[Keypoints],
    pairs: Sequence[PairMatches],
    stationary: Sequence[StationaryPixels],
    settings: MatchingSettings,
) -> NDArray[np.int64]:
    """Find the images that are mirrored relative to most other images.

    Groups of images that are not connected by any pair are examined separately.

    Args:
        keypoints: Keypoints of each image, with SIFT descriptors and image sizes.
        pairs: Verified image pairs.
        stationary: Stationary grid cells of the images. Keypoints in these cells are ignored, because a
            symmetric frame around an image matches its own mirror image.
        settings: Options of matching.

    Returns:
        Indices of the mirrored images, ascending. (n,).
    """
    num_images, options = len(keypoints), settings.mirroring
    candidates = candidate_pairs(num_images, pairs, options)
    ordinary = dict.fromkeys(candidates, 0) | {(pair.first, pair.second): len(pair.indices) for pair in pairs}
    moving = [
        _select(features, np.flatnonzero(~is_still)) if is_still.any() else features
        for features, is_still in zip(keypoints, stationary_keypoints(keypoints, stationary), strict=True)
    ]
    with single_torch_thread(), ThreadPoolExecutor(num_matching_threads(settings)) as pool:
        estimates = _estimate_flipped_matches(candidates, moving, settings, pool)
        verified: dict[tuple[int, int], int] = {}
        edges = np.array(list(ordinary), np.int64).reshape(-1, 2)
        counts = np.array(list(ordinary.values()))

        def split(flipped: Mapping[tuple[int, int], float]) -> tuple[list[int], list[tuple[int, int]]]:
            evidence = chirality_evidence(
                counts, np.array([flipped.get(edge, 0) for edge in ordinary]), settings
            )
            return split_by_chirality(num_images, edges, evidence)

        # Verify estimated counts of flipped matches only while they change the result.
        while (result := split(estimates | verified))[0] != split(verified)[0]:
            unverified = [pair for pair in result[1] if pair not in verified]
            unverified = unverified or [pair for pair in estimates if pair not in verified]
            counted = [pool.submit(count_flipped_matches, *pair, moving, settings) for pair in unverified]
            verified.update(zip(unverified, (count.result() for count in counted), strict=True))
    return np.array(result[0], np.int64)


def flip_descriptors(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert SIFT descriptors of an image to the descriptors of the same keypoints in the mirrored image.

    The first axis of a keypoint's frame is the keypoint's orientation. Mirroring inverts the second axis: the
    order of the cells along the second axis is reversed, and the gradient orientations are negated.

    Args:
        descriptors: SIFT or RootSIFT descriptors in OpenCV's order: cells along the second axis, cells along
            the first axis, orientations. (K, 128).

    Returns:
        Descriptors of the mirrored keypoints. (K, 128).
    """
    by_cell = descriptors.reshape(-1, NUM_CELLS, NUM_CELLS, NUM_ORIENTATIONS)
    flipped = by_cell[:, ::-1][..., -np.arange(NUM_ORIENTATIONS)]
    return np.ascontiguousarray(flipped.reshape(descriptors.shape))


def mirror_keypoints(features: Keypoints) -> Keypoints:
    """Convert the keypoints of an image to the keypoints of the horizontally mirrored image.

    Args:
        features: Keypoints of an image, with SIFT descriptors and the image size.

    Returns:
        Keypoints with mirrored positions and descriptors, in the same order.
    """
    assert features.image_size is not None
    xy = features.xy * (-1, 1) + (features.image_size[0], 0)
    return replace(features, xy=xy, descriptors=flip_descriptors(features.descriptors))


def candidate_pairs(
    num_images: int, pairs: Sequence[PairMatches], options: MirroringOptions
) -> list[tuple[int, int]]:
    """Choose the image pairs to test for whether exactly one of the two images is mirrored.

    Images that are connected by strong pairs are not tested against each other, because either all of them
    are mirrored or none is. A pair is strong if it has at least `min_strong_matches` matches, and at least
    `min_strong_ratio` times as many matches as any other pair that contains one of its images. Each image is
    tested against some of the images to which it is not connected, evenly spaced in the image order.

    Args:
        num_images: Number of images.
        pairs: Verified image pairs.
        options: Options of the search.

    Returns:
        Pairs of image indices, the smaller index first, in ascending order.
    """
    edges = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    counts = np.array([len(pair.indices) for pair in pairs], np.int64)
    largest = np.zeros(num_images, np.int64)
    np.maximum.at(largest, edges.ravel(), np.repeat(counts, 2))
    min_counts = np.maximum(largest[edges].max(axis=1) * options.min_strong_ratio, options.min_strong_matches)
    groups = _label_components(num_images, edges[counts >= min_counts])
    selected = set()
    for image_id in range(num_images):
        others = np.flatnonzero(groups != groups[image_id])
        num_partners = min(len(others), options.max_num_partners)
        partners = others[np.arange(num_partners) * len(others) // max(num_partners, 1)]
        selected.update((min(image_id, other), max(image_id, other)) for other in partners.tolist())
    return sorted(selected)


def count_flipped_matches(
    first: int, second: int, keypoints: Sequence[Keypoints], settings: MatchingSettings
) -> int:
    """Count the verified matches between the mirrored version of one image and another image.

    Args:
        first: Index of the image that is mirrored for the test.
        second: Index of the other image.
        keypoints: Keypoints of all images.
        settings: Options of matching.

    Returns:
        Number of verified matches; 0 if the pair fails verification.
    """
    pair = [mirror_keypoints(keypoints[first]), keypoints[second]]
    descriptors = [_prepare(features.descriptors, settings) for features in pair]
    indices = match_descriptors(descriptors[0], descriptors[1], settings.match_ratio).cpu().numpy()
    first_ids, second_ids = (first_at_position(features.xy) for features in pair)
    verified = verify_without_stationary(
        0, 1, merge_duplicates(indices, first_ids, second_ids), pair, settings
    )
    return 0 if verified is None else len(verified.indices)


def chirality_evidence(
    ordinary: NDArray[np.integer], flipped: NDArray[np.number], settings: MatchingSettings
) -> NDArray[np.floating]:
    """Compute the evidence that both images of a pair have the same chirality, or that one is mirrored.

    The evidence of a pair is `ordinary` - w `flipped`, with the weight w = `flipped_weight`. However, if
    `flipped` is at least `min_flipped_ratio` times `ordinary`, the evidence is -w `flipped`, or zero if w
    `flipped` is below `settings.min_matches`.

    Args:
        ordinary: Number of ordinary matches of each pair. (E,).
        flipped: Number of flipped matches of each pair: matches after one of the images was mirrored. (E,).
        settings: Options of matching.

    Returns:
        Evidence in units of ordinary matches: positive if both or neither of the images are mirrored,
        negative if exactly one image is mirrored, zero if the evidence is too weak. (E,).
    """
    weighted = flipped * settings.mirroring.flipped_weight
    is_opposite = flipped >= settings.mirroring.min_flipped_ratio * np.maximum(ordinary, 1)
    return np.where(is_opposite, -np.where(weighted < settings.min_matches, 0, weighted), ordinary - weighted)


def split_by_chirality(
    num_images: int, edges: NDArray[np.int64], evidence: NDArray[np.floating]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Divide images into ordinary and mirrored images, by the maximum spanning forest of the evidence.

    In each connected component of the forest, the images form two groups of opposite chirality. The smaller
    group is considered mirrored. If both are equally large, the group without the component's first image is
    considered mirrored.

    Args:
        num_images: Number of images.
        edges: Image indices of each pair; each pair at most once. (E, 2).
        evidence: Evidence of each pair, from `chirality_evidence`. (E,).

    Returns:
        Indices of the mirrored images, ascending; and the pairs of an ordinary and a mirrored image on which
        this result depends.
    """
    used = evidence != 0
    edges, evidence = edges[used], evidence[used]
    forest = maximum_spanning_forest(num_images, edges, np.abs(evidence))
    edges, is_opposite = edges[forest], evidence[forest] < 0
    # In a graph with two nodes per image, one for each chirality, every component is one assignment of
    # chiralities.
    first, second = edges.T
    crossed = num_images * is_opposite
    same_choice = [
        np.stack([first + num_images * side, (second + num_images * side + crossed) % (2 * num_images)], 1)
        for side in (0, 1)
    ]
    choices = _label_components(2 * num_images, np.concatenate(same_choice))[:num_images]
    components = _label_components(num_images, edges)
    mirrored = np.zeros(num_images, bool)
    for component in np.unique(components[edges[is_opposite]]):
        image_ids = np.flatnonzero(components == component)
        is_other = choices[image_ids] != choices[image_ids[0]]
        mirrored[image_ids] = is_other if is_other.mean() <= 0.5 else ~is_other
    return np.flatnonzero(mirrored).tolist(), [(i, j) for i, j in edges[is_opposite].tolist()]


def _estimate_flipped_matches(
    candidates: Iterable[tuple[int, int]],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
    pool: ThreadPoolExecutor,
) -> dict[tuple[int, int], float]:
    """Estimate the number of flipped matches of image pairs from the largest keypoints of each image.

    Args:
        candidates: Image indices of the candidate pairs.
        keypoints: Keypoints of all images.
        settings: Options of matching.
        pool: Pool of threads that match pairs in parallel.

    Returns:
        Estimated number of flipped matches (matches after mirroring one image), by pair. Pairs with as few
        matches as unrelated images are omitted.
    """
    options = settings.mirroring
    partners: dict[int, list[int]] = defaultdict(list)
    for first, second in candidates:
        partners[first].append(second)
    probes = {
        image_id: _select(features, _largest(features, options.num_probe_keypoints))
        for image_id, features in enumerate(keypoints)
    }

    def estimate(first: int) -> dict[tuple[int, int], float]:
        largest = _select(keypoints[first], _largest(keypoints[first], options.num_target_keypoints))
        target, estimates = _prepare(largest.descriptors, settings), {}
        for second in partners[first]:
            query = _prepare(flip_descriptors(probes[second].descriptors), settings)
            num_matches = len(match_descriptors(query, target, settings.match_ratio))
            num_queries = len(query.exact)
            if num_matches >= max(options.min_probe_ratio * num_queries, settings.min_matches):
                estimates[first, second] = num_matches / num_queries * len(keypoints[second].xy)
        return estimates

    return {pair: count for part in pool.map(estimate, partners) for pair, count in part.items()}


def _largest(features: Keypoints, count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` largest keypoints: those with the largest localization noise."""
    return np.argsort(-features.noise_or_ones(), kind="stable")[:count]


def _select(features: Keypoints, indices: NDArray[np.int64]) -> Keypoints:
    """Return the keypoints of an image with the given indices."""
    noise = None if features.noise is None else features.noise[indices]
    return replace(features, xy=features.xy[indices], descriptors=features.descriptors[indices], noise=noise)


def _prepare(descriptors: NDArray[np.float32], settings: MatchingSettings) -> Descriptors:
    """Prepare descriptors (K, D) for matching, on the device that `settings` selects."""
    return Descriptors.prepare(torch.from_numpy(descriptors).to(network_device(settings.device)))


def _label_components(num_nodes: int, edges: NDArray[np.int64]) -> NDArray[np.int32]:
    """Label each node of an undirected graph by its connected component.

    Edges (E, 2) -> labels (num_nodes,).
    """
    graph = coo_array((np.ones(len(edges), np.int8), edges.T), (num_nodes, num_nodes))
    return connected_components(graph, directed=False)[1]
