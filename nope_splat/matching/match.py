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
from .verify import verify_matches

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

    def verify(first: int, second: int, indices: NDArray[np.int64]) -> PairMatches | None:
        indices = np.unique(
            np.stack([places[first][indices[:, 0]], places[second][indices[:, 1]]], 1), axis=0
        )
        unit = max(keypoints[first].pixel_size, keypoints[second].pixel_size)
        geometry = verify_matches(
            keypoints[first].xy[indices[:, 0]] / unit,
            keypoints[second].xy[indices[:, 1]] / unit,
            settings.max_epipolar_error,
            settings.min_matches,
        )
        if geometry is None:
            return None
        indices = indices[geometry.inliers]
        scale = np.array([1 / unit, 1 / unit, 1])
        fundamental = geometry.fundamental * scale[:, None] * scale
        if first > second:
            first, second = second, first
            indices, fundamental = indices[:, ::-1], fundamental.T
        return PairMatches(
            first,
            second,
            np.ascontiguousarray(indices),
            fundamental / np.linalg.norm(fundamental),
            geometry.homography_ratio,
        )

    # Verification (poselib, which lets other threads run) goes on while the next pair is compared.
    with ThreadPoolExecutor(WORKERS) as pool:
        verified = []
        for pair in track(pairs, "Matching pairs"):
            # Matching and RANSAC are not symmetric: let the photographs, not their order, decide.
            first, second = sorted(pair, key=rank.__getitem__)
            matches = match_descriptors(descriptors[first], descriptors[second], settings.match_ratio)
            verified.append(pool.submit(verify, first, second, matches.cpu().numpy()))
        return [result for future in verified if (result := future.result()) is not None]


def _first_at_place(xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the first keypoint that has the same coordinates. (K,)."""
    _, first, inverse = np.unique(xy, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]
