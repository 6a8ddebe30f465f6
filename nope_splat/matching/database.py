"""Verified matches of a folder, from the cache where it has them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nope_splat.io.fingerprint import content_key
from nope_splat.io.images import ImageFolder
from nope_splat.matching import (
    Keypoints,
    MatchedPairs,
    MatchingSettings,
    PairMatches,
    PairPointmaps,
    Pointmaps,
    match_images,
)
from nope_splat.utils.cache import Cache

logger = logging.getLogger(__name__)

STAGE = "matches"
UNFINISHED = "pairs"


@dataclass(frozen=True)
class MatchDatabase:
    """Keypoints of all images and the verified matches of all pairs."""

    keypoints: tuple[Keypoints, ...]
    """One for each image; without descriptors when they come from the cache."""
    pairs: tuple[PairMatches, ...]
    """Held-out images included: whoever uses them must leave those aside."""
    pointmaps: Pointmaps | None = None
    """Of the pairs, from a matcher that makes any; held-out images included as well."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the descriptors, as arrays for the cache."""
        return _pointmap_arrays(self.pointmaps) | {
            "xy": np.concatenate([one.xy for one in self.keypoints]),
            "noise": np.concatenate(
                [np.ones(len(one.xy)) if one.noise is None else one.noise for one in self.keypoints]
            ),
            "num_keypoints": np.array([len(one.xy) for one in self.keypoints]),
            "pixel_sizes": np.array([one.pixel_size for one in self.keypoints]),
            **_pairs_to_arrays(self.pairs),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> MatchDatabase:
        """The inverse of `to_arrays`."""
        keypoints = [
            Keypoints(xy, np.zeros((len(xy), 0), np.float32), float(pixel_size), noise)
            for xy, noise, pixel_size in zip(
                _split(arrays["xy"], arrays["num_keypoints"]),
                _split(arrays["noise"], arrays["num_keypoints"]),
                arrays["pixel_sizes"],
                strict=True,
            )
        ]
        return cls(tuple(keypoints), tuple(_pairs_from_arrays(arrays)), _pointmaps(arrays))


def matches_key(folder: ImageFolder, settings: MatchingSettings) -> str:
    """Cache key of the matches: the images and the settings of matching, none of later stages.

    Args:
        folder: The images.
        settings: Settings of matching, or of something derived from it.

    Returns:
        The key.
    """
    values = asdict(settings)
    names = [field.name for field in fields(MatchingSettings) if field.name != "device"]
    return content_key(folder.images, {name: values[name] for name in names})


def find_matches(
    folder: ImageFolder, settings: MatchingSettings, cache: Cache | None, key: str
) -> MatchDatabase:
    """Match all images of a folder with each other, or finish what a run that was killed has begun.

    Args:
        folder: The images.
        settings: How to match.
        cache: Where matches are kept, if anywhere.
        key: From `matches_key`; not used without a cache.

    Returns:
        The matches.
    """
    stored = cache.load(STAGE, key, MatchDatabase.from_arrays) if cache else None
    if stored is not None:
        logger.info("Using the cached matches.")
        return stored
    known: dict[tuple[int, int], PairMatches | None] = {}
    # SIFT alone finds the same keypoints again, to the last bit.
    resumable = cache if settings.matcher == "sift" else None

    def keep(matched: MatchedPairs) -> None:
        if resumable:
            pairs = [verified for verified in matched.values() if verified is not None]
            tried = np.array(list(matched), np.int64).reshape(-1, 2)
            resumable.store(UNFINISHED, key, {"tried": tried, **_pairs_to_arrays(pairs)})

    if resumable:
        known = resumable.load(UNFINISHED, key, _tried_from_arrays) or {}
        if known:
            logger.info(f"Going on after the {len(known)} pairs that are matched already.")
    keypoints, pairs, pointmaps = match_images(folder.images, settings, known, keep)
    matches = MatchDatabase(tuple(keypoints), tuple(pairs), pointmaps)
    if cache:
        cache.store(STAGE, key, matches.to_arrays())
        cache.remove(UNFINISHED, key)
    return matches


def _pairs_to_arrays(pairs: Sequence[PairMatches]) -> dict[str, NDArray[Any]]:
    """Verified matches as arrays."""
    return {
        "indices": np.concatenate([np.zeros((0, 2), np.int64), *(pair.indices for pair in pairs)]),
        "num_matches": np.array([len(pair.indices) for pair in pairs], np.int64),
        "images": np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2),
        "fundamentals": np.array([pair.fundamental for pair in pairs]).reshape(-1, 3, 3),
        "homography_ratios": np.array([pair.homography_ratio for pair in pairs], np.float64),
    }


def _pairs_from_arrays(arrays: dict[str, NDArray[Any]]) -> list[PairMatches]:
    """The inverse of `_pairs_to_arrays`."""
    return [
        PairMatches(int(first), int(second), indices, fundamental, float(ratio))
        for (first, second), indices, fundamental, ratio in zip(
            arrays["images"],
            _split(arrays["indices"], arrays["num_matches"]),
            arrays["fundamentals"],
            arrays["homography_ratios"],
            strict=True,
        )
    ]


def _tried_from_arrays(arrays: dict[str, NDArray[Any]]) -> dict[tuple[int, int], PairMatches | None]:
    """The pairs that were tried, with the matches of those that were verified."""
    known: dict[tuple[int, int], PairMatches | None] = dict.fromkeys(
        (int(first), int(second)) for first, second in arrays["tried"]
    )
    return known | {(pair.first, pair.second): pair for pair in _pairs_from_arrays(arrays)}


def _split(values: NDArray[Any], counts: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Cut rows into consecutive parts of the given lengths."""
    return np.split(values, np.cumsum(counts)[:-1]) if len(counts) else []


def _pointmap_arrays(pointmaps: Pointmaps | None) -> dict[str, NDArray[Any]]:
    """Pointmaps as arrays for the cache; none where there are none."""
    if pointmaps is None:
        return {}
    pairs = pointmaps.pairs
    grids = [confidence for pair in pairs for confidence in pair.confidence]
    points = [points.reshape(-1, 3) for pair in pairs for points in pair.points]
    return {
        "grid_pixel_sizes": pointmaps.pixel_sizes,
        "grid_corners": pointmaps.corners,
        "pointmap_images": np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2),
        "pointmap_shapes": np.array([grid.shape for grid in grids], np.int64).reshape(-1, 2),
        "pointmap_points": np.concatenate([np.zeros((0, 3), np.float32), *points]),
        "pointmap_confidence": np.concatenate([np.zeros(0, np.float32), *(grid.ravel() for grid in grids)]),
    }


def _pointmaps(arrays: dict[str, NDArray[Any]]) -> Pointmaps | None:
    """The inverse of `_pointmap_arrays`."""
    if "pointmap_images" not in arrays:
        return None
    shapes = arrays["pointmap_shapes"]

    def grids(name: str) -> list[NDArray[Any]]:
        parts = _split(arrays[name], shapes.prod(axis=1))
        return [part.reshape(*shape, *part.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]

    points, confidence = grids("pointmap_points"), grids("pointmap_confidence")
    pairs = [
        PairPointmaps(first, second, (points[n], points[n + 1]), (confidence[n], confidence[n + 1]))
        for n, (first, second) in zip(
            range(0, len(points), 2), arrays["pointmap_images"].tolist(), strict=True
        )
    ]
    return Pointmaps(arrays["grid_pixel_sizes"], arrays["grid_corners"], tuple(pairs))
