"""From photographs to verified matches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.images import Photo
from nope_splat.progress import track

from .descriptors import match_descriptors
from .settings import MatchingSettings
from .sift import sift_keypoints
from .types import Keypoints, PairMatches
from .verify import verify_pair

WORKERS = min(os.cpu_count() or 1, 8)
"""Photographs or pairs at work at once; SIFT at the default size takes half a gigabyte for each."""


def extract_keypoints(photos: Sequence[Photo], settings: MatchingSettings) -> list[Keypoints]:
    """Find the keypoints of photographs.

    Args:
        photos: The photographs.
        settings: How to search.

    Returns:
        The keypoints of each photograph, in the same order.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(lambda photo: sift_keypoints(photo, settings), photos)
        return list(track(found, "Finding keypoints", len(photos)))


def match_pairs(
    keypoints: Sequence[Keypoints], pairs: Sequence[tuple[int, int]], settings: MatchingSettings
) -> list[PairMatches]:
    """Match pairs of photographs and keep the pairs that have an epipolar geometry.

    Where several keypoints share one place, matches refer to the first of them. The result does not
    depend on the order of the photographs, but for their indices.

    Args:
        keypoints: Keypoints of each photograph.
        pairs: Indices of the photographs of each pair, the lesser one first.
        settings: How to match and to verify.

    Returns:
        The verified pairs, in the order of `pairs`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    descriptors = [torch.from_numpy(one.descriptors).to(device) for one in keypoints]
    places = [_first_at_place(one.xy) for one in keypoints]
    rank = [(len(one.xy), float(one.xy.sum())) for one in keypoints]

    # Matching and RANSAC are not symmetric: let the photographs decide, not their order.
    directed = [sorted(pair, key=rank.__getitem__) for pair in pairs]
    candidates = []
    for first, second in track(directed, "Matching pairs"):
        found = match_descriptors(descriptors[first], descriptors[second], settings.match_ratio).cpu().numpy()
        indices = np.stack([places[first][found[:, 0]], places[second][found[:, 1]]], axis=1)
        candidates.append(np.unique(indices, axis=0))

    def verify(pair: Sequence[int], indices: NDArray[np.int64]) -> PairMatches | None:
        return verify_pair(pair[0], pair[1], indices, keypoints, settings)

    # poselib lets other threads run.
    with ThreadPoolExecutor(WORKERS) as pool:
        verified = list(track(pool.map(verify, directed, candidates), "Verifying pairs", len(pairs)))
    return [pair for pair in verified if pair is not None]


def _first_at_place(xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the first keypoint that has the same coordinates. (K,)."""
    _, first, inverse = np.unique(xy, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]
