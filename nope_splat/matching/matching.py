"""Keypoint extraction and matching of image pairs, for all matchers."""

from __future__ import annotations

import logging
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
from nope_splat.matching.ambiguity import count_second_motion
from nope_splat.matching.descriptors import Descriptors, match_descriptors
from nope_splat.matching.mask_check import warn_about_inverted_masks
from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.pairs import choose_pairs, frame_pairs, pairs_in_rounds
from nope_splat.matching.sift import sift_keypoints
from nope_splat.matching.stationary import verify_without_stationary
from nope_splat.matching.wide_angle import find_wide_angle_lenses, with_lenses
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches, Pointmaps
from nope_splat.utils.device_defaults import network_device
from nope_splat.utils.progress import progress_bar

logger = logging.getLogger(__name__)

MAX_SIFT_THREADS = min(os.cpu_count() or 1, 8)
"""Number of images from which keypoints are extracted in parallel. At the default size, each image takes half
a gigabyte of memory."""
MAX_GPU_THREADS = 4
"""Maximum number of threads that share a GPU. While some threads use the GPU, others prepare and verify
pairs. Each thread takes 200 MB of GPU memory. In addition, the descriptors of each image take 5 MB (8192
keypoints of 128 numbers)."""
SAVE_INTERVAL = 20.0
"""Seconds between saves of the pairs matched so far. A later run resumes from the saved pairs."""


def match_images(
    images: Sequence[ImageFile],
    settings: MatchingSettings,
    matched: MatchedPairs | None = None,
    save: Callable[[MatchedPairs], None] | None = None,
) -> tuple[list[Keypoints], list[PairMatches], Pointmaps | None]:
    """Extract keypoints, choose pairs of images, and match and verify these pairs.

    The matcher dust3r ignores `matched` and `save`.

    Args:
        images: The images.
        settings: Settings of matching.
        matched: Results of pairs that were matched earlier and are not matched again; None if there are none.
        save: Function that is called with the results of all pairs matched so far, every `SAVE_INTERVAL`
            seconds and on interruption; None to save nothing.

    Returns:
        Keypoints of each image; the verified pairs, whose matches are keypoint indices; and the pointmaps, or
        None if the matcher does not predict pointmaps.

    Raises:
        NopeSplatError: If a package or the weights of the matcher are missing.
    """
    sequential = frame_pairs(images, settings.transitive.max_frame_gap)
    if settings.matcher != "dust3r":
        keypoints = extract_keypoints(images, settings)
        pairs = match_keypoints(keypoints, settings, matched, save, sequential)
        lenses = find_wide_angle_lenses(keypoints, pairs, _putative_matcher(keypoints, settings), settings)
        if lenses:
            logger.info("The photos were taken with a wide-angle lens; verifying their matches again.")
            keypoints = with_lenses(keypoints, lenses)
            pairs = match_keypoints(keypoints, settings, sequential=sequential)
        return keypoints, pairs, None
    from nope_splat.matching.dust3r import match_by_dust3r

    # DUSt3R has no descriptors for choosing pairs, so extract SIFT keypoints, which takes little time in
    # comparison.
    keypoints = extract_keypoints(images, replace(settings, matcher="sift"))
    return match_by_dust3r(images, choose_pairs(keypoints, settings, sequential), settings)


def extract_keypoints(images: Sequence[ImageFile], settings: MatchingSettings) -> list[Keypoints]:
    """Detect and describe the keypoints of images; log a warning if the masks seem to be inverted.

    Args:
        images: The images.
        settings: Matcher, maximum number of keypoints, and image size for detection.

    Returns:
        The keypoints of each image, in the same order.

    Raises:
        NopeSplatError: If a package or the weights of the matcher are missing.
    """
    if settings.matcher == "disk":
        from nope_splat.matching.disk import disk_keypoints

        extracted = disk_keypoints(images, settings)
        keypoints = list(progress_bar(extracted, "Extracting keypoints", len(images)))
    else:
        with ThreadPoolExecutor(MAX_SIFT_THREADS) as pool:
            extracted = pool.map(lambda image: sift_keypoints(image, settings), images)
            keypoints = list(progress_bar(extracted, "Extracting keypoints", len(images)))
    warn_about_inverted_masks(images, keypoints, settings.inverted_masks)
    return keypoints


def match_keypoints(
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
    matched: MatchedPairs | None = None,
    save: Callable[[MatchedPairs], None] | None = None,
    sequential: Sequence[tuple[int, int]] = (),
) -> list[PairMatches]:
    """Choose pairs of images, and match and verify these pairs.

    Args:
        keypoints: Keypoints of each image.
        settings: Options of choosing, matching and verifying pairs.
        matched: Results of pairs that were matched earlier and are not matched again; None if there are none.
        save: Function that is called with the results of all pairs matched so far, every `SAVE_INTERVAL`
            seconds and on interruption; None to save nothing.
        sequential: Pairs of frames of videos from `frame_pairs`.

    Returns:
        The verified pairs, in ascending order of image indices.
    """
    rounds = partial(pairs_in_rounds, keypoints, settings, sequential)
    return _match_rounds(keypoints, rounds, settings, matched, save)


def match_pairs(
    keypoints: Sequence[Keypoints], pairs: list[tuple[int, int]], settings: MatchingSettings
) -> list[PairMatches]:
    """Match pairs of images and verify their epipolar geometry.

    If several keypoints have the same position, matches refer to the first of these keypoints. Apart from the
    indices, the result does not depend on the order of the images.

    Args:
        keypoints: Keypoints of each image.
        pairs: Image indices of each pair, the smaller index first.
        settings: Options of matching and verifying pairs.

    Returns:
        The verified pairs, in ascending order of image indices.
    """
    return _match_rounds(keypoints, lambda _: iter([pairs]), settings)


def _match_rounds(
    keypoints: Sequence[Keypoints],
    rounds: Callable[[MatchedPairs], Iterator[list[tuple[int, int]]]],
    settings: MatchingSettings,
    matched: MatchedPairs | None = None,
    save: Callable[[MatchedPairs], None] | None = None,
) -> list[PairMatches]:
    """Match and verify pairs of images, round by round.

    Args:
        keypoints: Keypoints of each image.
        rounds: Function that takes a dictionary with the results of all pairs matched so far, and yields one
            list of pairs per round. The results of a round are added to the dictionary before the next list
            is requested.
        settings: Options of matching and verifying pairs.
        matched: Results of pairs that were matched earlier and are not matched again; None if there are none.
        save: Function that is called with the results of all pairs matched so far, every `SAVE_INTERVAL`
            seconds and on interruption; None to save nothing.

    Returns:
        The verified pairs of all rounds, in ascending order of image indices.
    """
    match_putatively = _putative_matcher(keypoints, settings)
    first_ids = [first_at_position(features.xy) for features in keypoints]
    sort_keys = [(len(features.xy), float(features.xy.sum())) for features in keypoints]
    matches, requested, new = dict(matched or {}), [], []

    def match(pair: tuple[int, int]) -> None:
        # Matching and RANSAC depend on the order of the two images, so order them by content, not by index.
        first, second = sorted(pair, key=sort_keys.__getitem__)
        putative = match_putatively(first, second)
        indices = merge_duplicates(putative, first_ids[first], first_ids[second])
        verified = verify_without_stationary(first, second, indices, keypoints, settings)
        if verified is not None:
            ordered = indices if first == verified.first else indices[:, ::-1]
            verified = count_second_motion(verified, ordered, keypoints, settings)
        matches[pair] = verified

    def match_all(pool: ThreadPoolExecutor) -> Iterator[None]:
        for pairs in rounds(matches):
            requested.extend(pairs)
            unmatched = [pair for pair in pairs if pair not in matches]
            new.extend(unmatched)
            yield from pool.map(match, unmatched)

    last_save = time.monotonic()
    with single_torch_thread(), ThreadPoolExecutor(num_matching_threads(settings)) as pool:
        try:
            for _ in progress_bar(match_all(pool), "Matching pairs", lambda: len(new)):
                if save and time.monotonic() - last_save > SAVE_INTERVAL:
                    save(matches.copy())  # copy, because other threads keep adding matches
                    last_save = time.monotonic()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # do not keep an interrupting user waiting
            if save:
                save(matches.copy())
            raise
    return [verified for pair in sorted(requested) if (verified := matches[pair]) is not None]


def num_matching_threads(settings: MatchingSettings) -> int:
    """Compute the number of threads that match image pairs in parallel.

    Args:
        settings: Device of matching.

    Returns:
        One thread per CPU core; with a GPU, at most `MAX_GPU_THREADS`.
    """
    cores = os.cpu_count() or 1
    return cores if network_device(settings.device).type == "cpu" else min(cores, MAX_GPU_THREADS)


def _putative_matcher(
    keypoints: Sequence[Keypoints], settings: MatchingSettings
) -> Callable[[int, int], NDArray[np.int64]]:
    """Create a function that matches the keypoints of two images without verifying the matches.

    Args:
        keypoints: Keypoints of each image, with descriptors.
        settings: Matcher and its options.

    Returns:
        A function that takes two image indices and returns the matches: keypoint indices in the first and the
        second image. (M, 2).
    """
    if settings.matcher == "disk":
        from nope_splat.matching.disk import lightglue

        return lightglue(keypoints, network_device(settings.device))
    return _ratio_test_matcher(keypoints, settings)


def _ratio_test_matcher(
    keypoints: Sequence[Keypoints], settings: MatchingSettings
) -> Callable[[int, int], NDArray[np.int64]]:
    """Create a function that matches two images by nearest neighbors and the ratio test.

    Args:
        keypoints: Keypoints of each image, with descriptors.
        settings: Maximum ratio of distances, and device.

    Returns:
        A function that takes two image indices and returns the matches: keypoint indices in the first and the
        second image. (M, 2).
    """
    device = network_device(settings.device)
    descriptors = [
        Descriptors.prepare(torch.from_numpy(features.descriptors).to(device)) for features in keypoints
    ]

    def match(first: int, second: int) -> NDArray[np.int64]:
        return match_descriptors(descriptors[first], descriptors[second], settings.match_ratio).cpu().numpy()

    return match


def first_at_position(xy: NDArray[np.floating]) -> NDArray[np.int64]:
    """For each keypoint, find the index of the first keypoint at the same position.

    Args:
        xy: Positions of the keypoints. (K, 2).

    Returns:
        Keypoint indices. (K,).
    """
    _, first, inverse = np.unique(xy @ (1, 1j), return_index=True, return_inverse=True)
    return first[inverse]


def merge_duplicates(
    indices: NDArray[np.int64], first_ids: NDArray[np.int64], second_ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Replace keypoints by the first keypoint at the same position, then remove duplicate matches.

    Args:
        indices: Keypoint indices of matches. (M, 2).
        first_ids: Index that replaces each keypoint of the first image, from `first_at_position`. (K,).
        second_ids: Index that replaces each keypoint of the second image. (L,).

    Returns:
        Keypoint indices of the matches, in ascending order. (m, 2).
    """
    num_second = len(second_ids)
    # Encoding a match as one number makes sorting fast.
    codes = np.unique(first_ids[indices[:, 0]] * num_second + second_ids[indices[:, 1]])
    return np.stack(np.divmod(codes, num_second), axis=1)


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Limit torch operations to one CPU thread within a `with` block.

    Pairs are matched in parallel, one per core, which is faster than using all cores for one pair.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
