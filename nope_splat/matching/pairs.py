"""Selection of the image pairs to match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from nope_splat.io.images import ImageFile
from nope_splat.matching.options import MatchingSettings
from nope_splat.scene.features import Keypoints, MatchedPairs


def frame_pairs(images: Sequence[ImageFile], max_gap: int) -> list[tuple[int, int]]:
    """Pair each frame of a video with the frames 1, 2, 4, 8, ... positions after it.

    Args:
        images: The images; frames of a video are consecutive.
        max_gap: Maximum number of positions between the two frames of a pair.

    Returns:
        Pairs of image indices, the smaller index first, in ascending order.
    """
    pairs, gap = [], 1
    while gap <= max_gap:
        pairs += [
            (first, first + gap)
            for first in range(len(images) - gap)
            if images[first].video is not None and images[first].video == images[first + gap].video
        ]
        gap *= 2
    return sorted(pairs)


def choose_pairs(
    keypoints: Sequence[Keypoints], settings: MatchingSettings, sequential: Sequence[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """Choose all pairs of images to match, before any matches are known.

    Args:
        keypoints: Keypoints of each image, with descriptors, in the order of the images.
        settings: Method of pair selection and its options. Retrieval chooses the most similar images.
        sequential: Pairs of frames of videos from `frame_pairs`, which are added if retrieval chooses pairs.

    Returns:
        Pairs of image indices, the smaller index first, in ascending order.
    """
    num_images = len(keypoints)
    selection = settings.pair_selection(num_images)
    if selection == "retrieval":
        from nope_splat.matching.retrieval import ImageSimilarity

        similarity = ImageSimilarity.from_keypoints(keypoints, settings.retrieval, settings.seed)
        return sorted({*similarity.most_similar_pairs(settings.num_partners), *sequential})
    # Half of the partners precede an image, the other half follow it.
    max_gap = num_images if selection == "exhaustive" else (settings.num_partners + 1) // 2
    return [pair for pair in combinations(range(num_images), 2) if pair[1] - pair[0] <= max_gap]


def pairs_in_rounds(
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
    sequential: Sequence[tuple[int, int]],
    matched: MatchedPairs,
) -> Iterator[list[tuple[int, int]]]:
    """Choose pairs of images to match, in rounds.

    Only retrieval has several rounds, which use the matches of earlier rounds.

    Args:
        keypoints: Keypoints of each image, with descriptors, in the order of the images.
        settings: Method of pair selection and its options.
        sequential: Pairs of frames of videos from `frame_pairs`, which are added if retrieval chooses pairs.
        matched: Matches by pair. The caller must add the matches of a round before it requests the next
            round.

    Yields:
        For each round, the pairs of image indices, the smaller index first, in ascending order. Different
        rounds have no pairs in common.
    """
    if settings.pair_selection(len(keypoints)) == "retrieval":
        from nope_splat.matching.transitive import transitive_pairs

        yield from transitive_pairs(keypoints, settings, matched, sequential)
    else:
        yield choose_pairs(keypoints, settings)
