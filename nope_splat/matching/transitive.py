"""Transitive matching: pairs chosen round by round from image similarity and shared keypoints.

The first round matches the most similar images (see `retrieval`), and neighboring frames of videos. Later
rounds rely on verified matches, which are better evidence than similarity: if keypoints of an image b match
both image a and image c, then a and c show the same points. The images a and c are then said to share these
keypoints of b. Each image is matched with the candidate with which it shares the most keypoints. A candidate
is skipped if another pair of the image, with at least as many shared keypoints, failed verification or had
few matches. When there are no more candidates, image similarity is used again, because similar images without
shared keypoints may close a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.retrieval import ImageSimilarity
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches


def transitive_pairs(
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
    matched: MatchedPairs,
    sequential: Sequence[tuple[int, int]] = (),
) -> Iterator[list[tuple[int, int]]]:
    """Choose pairs of images round by round, from image similarity and the matches of earlier rounds.

    Args:
        keypoints: Keypoints of each image, with descriptors, in the order of the images.
        settings: Options of retrieval and transitive matching.
        matched: Matches by pair. The caller must add the matches of a round before it requests the next
            round.
        sequential: Pairs of frames of videos, which are matched in the first round.

    Yields:
        For each round, the pairs of image indices, the smaller index first, in ascending order. Different
        rounds have no pairs in common.
    """
    num_images, options = len(keypoints), settings.transitive
    similarity = ImageSimilarity.from_keypoints(keypoints, settings.retrieval, settings.seed)
    neighbor = np.zeros((num_images, num_images), bool)
    order = np.argsort(-similarity.scores, axis=1, kind="stable")
    np.put_along_axis(neighbor, order[:, : settings.num_partners], True, axis=1)
    tried = np.eye(num_images, dtype=bool)
    covisibility = CovisibilityCounts(keypoints)
    # A candidate must beat the best score among the failed pairs of the image.
    failed_score = np.full(num_images, settings.min_matches - 1)
    use_similarity, by_similarity = np.ones(num_images, bool), False
    pairs = similarity.most_similar_pairs(min(options.num_initial_partners, settings.num_partners))
    pairs = sorted({*pairs, *sequential})
    while pairs:
        yield pairs
        for pair in pairs:
            matches = matched[pair]
            tried[pair] = tried[pair[::-1]] = True
            if matches is not None:
                covisibility.add(matches)
            if matches is None or len(matches.indices) < options.min_num_matches:
                connected = [
                    image_id
                    for image_id in pair
                    if covisibility.num_partners[image_id] >= options.min_num_partners
                ]
                failed_score[connected] = np.maximum(failed_score[connected], covisibility.counts[pair])
                use_similarity[connected] &= not by_similarity
        promising = covisibility.counts > failed_score[:, None]
        pairs = _best_pairs(np.where(promising & ~tried, covisibility.counts, -1))
        by_similarity = not pairs
        if by_similarity:
            unconnected = similarity.significant & (covisibility.counts < settings.min_matches)
            unconnected |= (covisibility.num_partners < options.min_num_partners)[:, None]
            candidates = unconnected & neighbor & use_similarity[:, None] & ~tried
            pairs = _best_pairs(np.where(candidates, similarity.scores + 1, -1))


class CovisibilityCounts:
    """Number of keypoints that two images share, for all pairs of N images.

    Two images share a keypoint if both match the same keypoint of a third image. If there are several third
    images, the one with the most shared keypoints determines the number.

    Args:
        keypoints: Keypoints of each image.
    """

    def __init__(self, keypoints: Sequence[Keypoints]) -> None:
        self.counts = np.zeros((len(keypoints), len(keypoints)), np.int64)
        """Maximum number of keypoints in any third image that match keypoints of both images. (N, N)."""
        self.num_partners = np.zeros(len(keypoints), np.int64)
        """Number of verified pairs of each image. (N,)."""
        self._num_keypoints = [len(features.xy) for features in keypoints]
        self._matched_ids: list[dict[int, NDArray[np.int64]]] = [{} for _ in keypoints]

    def add(self, pair: PairMatches) -> None:
        """Update the counts with the matches of a verified pair.

        Args:
            pair: The verified pair; must be added only once.
        """
        for image_id, partner, keypoint_ids in (
            (pair.first, pair.second, pair.indices[:, 0]),
            (pair.second, pair.first, pair.indices[:, 1]),
        ):
            matched = np.zeros(self._num_keypoints[image_id], bool)
            matched[keypoint_ids] = True
            for other_partner, other_ids in self._matched_ids[image_id].items():
                count = max(np.count_nonzero(matched[other_ids]), self.counts[partner, other_partner])
                self.counts[partner, other_partner] = self.counts[other_partner, partner] = count
            self._matched_ids[image_id][partner] = keypoint_ids
            self.num_partners[image_id] += 1


def _best_pairs(scores: NDArray[np.number]) -> list[tuple[int, int]]:
    """Pair each image with its highest-scoring candidate.

    Args:
        scores: Score of each image (row) with each candidate (column); negative for excluded candidates.
            (N, N).

    Returns:
        Pairs of image indices, the smaller index first, in ascending order. Images without a candidate are
        omitted.
    """
    image_ids = np.flatnonzero(scores.max(axis=1) >= 0)
    pairs = np.sort(np.stack([image_ids, scores[image_ids].argmax(axis=1)], axis=1), axis=1)
    return [(first, second) for first, second in np.unique(pairs, axis=0).tolist()]
