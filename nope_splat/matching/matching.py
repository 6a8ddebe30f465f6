"""From images to verified matches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.io.images import ImageFile
from nope_splat.matching.descriptors import Descriptors, match_descriptors
from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.pairs import choose_pairs, pairs_in_rounds
from nope_splat.matching.sift import sift_keypoints
from nope_splat.matching.verification import verify_pair
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches, Pointmaps
from nope_splat.utils.device_defaults import device_of_networks
from nope_splat.utils.progress import track

SIFT_WORKERS = min(os.cpu_count() or 1, 8)
"""Images searched at once; at the default size each takes half a gigabyte meanwhile."""
GPU_WORKERS = 4
"""Threads that match on a GPU: one prepares and verifies what the others compute. More would take memory, 200
MB each, beside the 5 MB of each image's descriptors (8192 keypoints of 128 numbers)."""
KEEP_EVERY = 20.0
"""Seconds after which pairs that were matched are kept for a run that goes on when this one is killed."""


def match_images(
    images: Sequence[ImageFile],
    settings: MatchingSettings,
    known: MatchedPairs | None = None,
    keep: Callable[[MatchedPairs], None] | None = None,
) -> tuple[list[Keypoints], list[PairMatches], Pointmaps | None]:
    """Choose pairs of images and match them, whatever the matcher.

    Args:
        images: The images.
        settings: How to match.
        known: Pairs that need not be matched again.
        keep: Called with the pairs matched so far, now and then and when interrupted.

    Returns:
        Keypoints of each image; the verified pairs, whose matches are indices into them; the pointmaps,
        of a matcher that makes any.

    Raises:
        NopeSplatError: If the matcher lacks a package or its weights.
    """
    if settings.matcher != "dust3r":
        keypoints = extract_keypoints(images, settings)
        return keypoints, match_chosen(keypoints, settings, known, keep), None
    from nope_splat.matching.dust3r import match_by_dust3r

    # DUSt3R has no descriptors to choose pairs by; those of SIFT take no time beside it.
    keypoints = extract_keypoints(images, replace(settings, matcher="sift"))
    return match_by_dust3r(images, choose_pairs(keypoints, settings), settings)


def extract_keypoints(images: Sequence[ImageFile], settings: MatchingSettings) -> list[Keypoints]:
    """Find the keypoints of images.

    Args:
        images: The images.
        settings: How to search.

    Returns:
        The keypoints of each image, in the same order.

    Raises:
        NopeSplatError: If the matcher lacks a package or its weights.
    """
    if settings.matcher == "disk":
        from nope_splat.matching.disk import disk_keypoints

        return list(track(disk_keypoints(images, settings), "Finding keypoints", len(images)))
    with ThreadPoolExecutor(SIFT_WORKERS) as pool:
        found = pool.map(lambda image: sift_keypoints(image, settings), images)
        return list(track(found, "Finding keypoints", len(images)))


def match_chosen(
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
    known: MatchedPairs | None = None,
    keep: Callable[[MatchedPairs], None] | None = None,
) -> list[PairMatches]:
    """Choose pairs of images, and match them as `match_pairs` does.

    Args:
        keypoints: Keypoints of each image.
        settings: How to choose, to match and to verify.
        known: Pairs that need not be matched again.
        keep: Called with the pairs matched so far, now and then and when interrupted.

    Returns:
        The verified pairs, in ascending order.
    """
    return _match_rounds(keypoints, partial(pairs_in_rounds, keypoints, settings), settings, known, keep)


def match_pairs(
    keypoints: Sequence[Keypoints], pairs: list[tuple[int, int]], settings: MatchingSettings
) -> list[PairMatches]:
    """Match pairs of images and keep the pairs that have an epipolar geometry.

    Where several keypoints share one place, matches refer to the first of them. The result does not
    depend on the order of the images, but for their indices.

    Args:
        keypoints: Keypoints of each image.
        pairs: Indices of the images of each pair, the lesser one first.
        settings: How to match and to verify.

    Returns:
        The verified pairs, in ascending order.
    """
    return _match_rounds(keypoints, lambda matched: iter([pairs]), settings)


def _match_rounds(
    keypoints: Sequence[Keypoints],
    rounds: Callable[[MatchedPairs], Iterator[list[tuple[int, int]]]],
    settings: MatchingSettings,
    known: MatchedPairs | None = None,
    keep: Callable[[MatchedPairs], None] | None = None,
) -> list[PairMatches]:
    """Match pairs round by round; `rounds` sees the matches of those before."""
    propose = _proposals(keypoints, settings)
    places = [_first_at_place(one.xy) for one in keypoints]
    rank = [(len(one.xy), float(one.xy.sum())) for one in keypoints]
    matched, asked, new = dict(known or {}), [], []

    def match(pair: tuple[int, int]) -> None:
        # Matching and RANSAC are not symmetric: let the images decide, not their order.
        first, second = sorted(pair, key=rank.__getitem__)
        found = propose(first, second)
        # Pairs of places, each once and in order; as single numbers these are sorted in no time.
        num_second = len(places[second])
        numbers = np.unique(places[first][found[:, 0]] * num_second + places[second][found[:, 1]])
        indices = np.stack(np.divmod(numbers, num_second), axis=1)
        matched[pair] = verify_pair(first, second, indices, keypoints, settings)

    def match_all(pool: ThreadPoolExecutor) -> Iterator[None]:
        for pairs in rounds(matched):
            asked.extend(pairs)
            waiting = [pair for pair in pairs if pair not in matched]
            new.extend(waiting)
            yield from pool.map(match, waiting)

    kept = time.monotonic()
    with _one_torch_thread(), ThreadPoolExecutor(_workers(settings)) as pool:
        try:
            for _ in track(match_all(pool), "Matching pairs", lambda: len(new)):
                if keep and time.monotonic() - kept > KEEP_EVERY:
                    keep(matched.copy())  # others go on matching
                    kept = time.monotonic()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # who interrupts does not want to wait
            if keep:
                keep(matched.copy())
            raise
    return [verified for pair in sorted(asked) if (verified := matched[pair]) is not None]


def _workers(settings: MatchingSettings) -> int:
    """Threads that match: one for each core of a CPU; for a GPU, as many as keep it busy."""
    cores = os.cpu_count() or 1
    return cores if device_of_networks(settings.device).type == "cpu" else min(cores, GPU_WORKERS)


def _proposals(
    keypoints: Sequence[Keypoints], settings: MatchingSettings
) -> Callable[[int, int], NDArray[np.int64]]:
    """A matcher; maps two images to the keypoint indices of likely matches in each. (M, 2)."""
    if settings.matcher == "disk":
        from nope_splat.matching.disk import lightglue

        return lightglue(keypoints, device_of_networks(settings.device))
    return _by_ratio(keypoints, settings)


def _by_ratio(
    keypoints: Sequence[Keypoints], settings: MatchingSettings
) -> Callable[[int, int], NDArray[np.int64]]:
    """A matcher by the ratio test; maps two images to keypoint indices in each. (M, 2)."""
    device = device_of_networks(settings.device)
    descriptors = [Descriptors.prepare(torch.from_numpy(one.descriptors).to(device)) for one in keypoints]

    def match(first: int, second: int) -> NDArray[np.int64]:
        return match_descriptors(descriptors[first], descriptors[second], settings.match_ratio).cpu().numpy()

    return match


def _first_at_place(xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the first keypoint that has the same coordinates. (K,)."""
    _, first, inverse = np.unique(xy @ (1, 1j), return_index=True, return_inverse=True)
    return first[inverse]


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Let torch use one thread per call: a pair per core is faster than all cores on one pair."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
