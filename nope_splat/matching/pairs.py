"""Which pairs of images are matched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from nope_splat.matching.options import MatchingSettings
from nope_splat.scene.features import Keypoints, MatchedPairs


def choose_pairs(keypoints: Sequence[Keypoints], settings: MatchingSettings) -> list[tuple[int, int]]:
    """Choose the pairs of images to match, before any is; by retrieval those that look alike.

    Args:
        keypoints: Keypoints of each image, with descriptors, in the order of the images.
        settings: How to choose.

    Returns:
        Pairs of indices, the lesser one first, in ascending order.
    """
    num_images = len(keypoints)
    choice = settings.choice_of_pairs(num_images)
    if choice == "retrieval":
        from nope_splat.matching.retrieval import ImageSimilarity

        return ImageSimilarity.of(keypoints, settings.seed).most_similar(settings.num_partners)
    # Half of the partners come before an image, half after it.
    reach = num_images if choice == "exhaustive" else (settings.num_partners + 1) // 2
    return [pair for pair in combinations(range(num_images), 2) if pair[1] - pair[0] <= reach]


def pairs_in_rounds(
    keypoints: Sequence[Keypoints], settings: MatchingSettings, matched: MatchedPairs
) -> Iterator[list[tuple[int, int]]]:
    """Choose the pairs of images to match; by retrieval in rounds, with what has been matched in view.

    Args:
        keypoints: Keypoints of each image, with descriptors, in the order of the images.
        settings: How to choose.
        matched: Has to hold the matches of every pair when the next round is asked for.

    Yields:
        Pairs of indices, the lesser one first, in ascending order; none twice.
    """
    if settings.choice_of_pairs(len(keypoints)) == "retrieval":
        from nope_splat.matching.transitive import walk

        yield from walk(keypoints, settings, matched)
    else:
        yield choose_pairs(keypoints, settings)
