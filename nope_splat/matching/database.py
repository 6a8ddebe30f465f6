"""Database of keypoints and verified matches of all images in a folder, stored in the cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
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
from nope_splat.matching.ambiguity import measure_repetition
from nope_splat.matching.mirrored import find_mirrored_images
from nope_splat.matching.stationary import find_stationary_pixels, remove_stationary_matches
from nope_splat.scene.consistency import require_consistent_matches
from nope_splat.scene.stationary import StationaryPixels
from nope_splat.utils.cache import Cache

logger = logging.getLogger(__name__)

CACHE_STAGE = "matches"
"""Name under which the cache stores finished matches."""
PARTIAL_CACHE_STAGE = "pairs"
"""Name under which the cache stores the pairs matched so far. After an interruption, the next run resumes
from these pairs."""


@dataclass(frozen=True)
class MatchDatabase:
    """Keypoints of all images and verified matches of all image pairs, including held-out images.

    Callers have to exclude held-out images from training.
    """

    keypoints: tuple[Keypoints, ...]
    """Keypoints of each image. They have no descriptors if the database was loaded from the cache."""
    pairs: tuple[PairMatches, ...]
    """Verified pairs, in ascending order of image indices. Pairs in which exactly one image is mirrored are
    omitted."""
    pointmaps: Pointmaps | None = None
    """Pointmaps of the pairs; None if the matcher does not predict pointmaps."""
    repetition: NDArray[np.floating] | None = None
    """Fraction of the keypoints of each image that resemble another place in the same image, from 0 to 1.
    (N,). None if unknown."""
    mirrored_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Indices of the images that are mirrored relative to most other images, ascending. (n,)."""
    stationary: tuple[StationaryPixels, ...] = ()
    """Grid cells whose content stays at the same pixels in all images, such as a logo; one entry per image
    size that has such cells. Matches in these cells are removed from `pairs`. Empty until
    `without_stationary` finds the cells; not stored in the cache."""

    @property
    def mirrored(self) -> NDArray[np.bool_]:
        """True for images that are mirrored relative to most other images. (N,)."""
        return np.isin(np.arange(len(self.keypoints)), self.mirrored_ids)

    def without_stationary(
        self, folder: ImageFolder, held_out: NDArray[np.bool_], settings: MatchingSettings
    ) -> MatchDatabase:
        """Find pixels that do not move with the scene, such as a logo, and remove their matches.

        The pixels are found in training images, as cells of a grid, and their matches removed from all pairs.

        Args:
            folder: The images.
            held_out: True for held-out images; their matches are not used to find stationary cells. (N,).
            settings: Options of matching.

        Returns:
            A database with the remaining matches and the stationary cells.
        """
        keypoints = [
            replace(features, image_size=(image.width, image.height))
            for features, image in zip(self.keypoints, folder.images, strict=True)
        ]
        training = [pair for pair in self.pairs if not held_out[[pair.first, pair.second]].any()]
        stationary = find_stationary_pixels(keypoints, training, settings)
        pairs = remove_stationary_matches(keypoints, self.pairs, stationary, settings)
        return replace(self, pairs=tuple(pairs), stationary=stationary)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Convert the database to arrays by name; descriptors and stationary cells are omitted."""
        arrays = _pointmaps_to_arrays(self.pointmaps)
        if self.repetition is not None:
            arrays["repetition"] = self.repetition
        return arrays | {
            "xy": np.concatenate([features.xy for features in self.keypoints]),
            "noise": np.concatenate([features.noise_or_ones() for features in self.keypoints]),
            "num_keypoints": np.array([len(features.xy) for features in self.keypoints]),
            "mirrored": self.mirrored_ids,
            "pixel_sizes": np.array([features.pixel_size for features in self.keypoints]),
            "divisions": np.array([features.division for features in self.keypoints]),
            **_pairs_to_arrays(self.pairs),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> MatchDatabase:
        """Create a database from the arrays of `to_arrays`."""
        keypoints = [
            Keypoints(
                xy, np.zeros((len(xy), 0), np.float32), float(pixel_size), noise, division=float(division)
            )
            for xy, noise, pixel_size, division in zip(
                _split(arrays["xy"], arrays["num_keypoints"]),
                _split(arrays["noise"], arrays["num_keypoints"]),
                arrays["pixel_sizes"],
                arrays["divisions"],
                strict=True,
            )
        ]
        pairs = _pairs_from_arrays(arrays)
        require_consistent_matches(keypoints, pairs)
        return cls(
            tuple(keypoints),
            tuple(pairs),
            _pointmaps_from_arrays(arrays),
            arrays.get("repetition"),
            arrays["mirrored"],
        )


def matches_key(folder: ImageFolder, settings: MatchingSettings) -> str:
    """Compute the cache key of the matches of an image folder from its images and the matching settings.

    Args:
        folder: The images.
        settings: Settings of matching. The device and the fields of derived classes do not affect the key.

    Returns:
        The key.
    """
    values = asdict(settings)
    names = [entry.name for entry in fields(MatchingSettings) if entry.name != "device"]
    return content_key(folder.images, {name: values[name] for name in names})


def load_or_match(
    folder: ImageFolder, settings: MatchingSettings, cache: Cache | None, key: str
) -> MatchDatabase:
    """Load the matches of a folder from the cache, or match its images.

    With SIFT, matching resumes from the pairs that an interrupted earlier run saved in the cache.

    Args:
        folder: Folder with the images.
        settings: Matching settings.
        cache: Cache of matches; None to match without a cache.
        key: Cache key from `matches_key`.

    Returns:
        Keypoints and verified matches.
    """
    stored = cache.load(CACHE_STAGE, key, MatchDatabase.from_arrays) if cache else None
    if stored is not None:
        logger.info("Using the cached matches.")
        return stored
    known: dict[tuple[int, int], PairMatches | None] = {}
    # Only SIFT extracts bitwise identical keypoints again, to which saved matches still refer.
    partial_cache = cache if settings.matcher == "sift" else None

    def save(matched: MatchedPairs) -> None:
        if partial_cache:
            pairs = [verified for verified in matched.values() if verified is not None]
            tried = np.array(list(matched), np.int64).reshape(-1, 2)
            partial_cache.store(PARTIAL_CACHE_STAGE, key, {"tried": tried, **_pairs_to_arrays(pairs)})

    if partial_cache:
        known = partial_cache.load(PARTIAL_CACHE_STAGE, key, _tried_from_arrays) or {}
        if known:
            logger.info(f"Resuming after {len(known)} pairs that are already matched.")
    keypoints, pairs, pointmaps = match_images(folder.images, settings, known, save)
    matches = _create_database(keypoints, pairs, pointmaps, settings)
    if cache:
        cache.store(CACHE_STAGE, key, matches.to_arrays())
        cache.remove(PARTIAL_CACHE_STAGE, key)
    return matches


def _create_database(
    keypoints: Sequence[Keypoints],
    pairs: Sequence[PairMatches],
    pointmaps: Pointmaps | None,
    settings: MatchingSettings,
) -> MatchDatabase:
    """Create the database of an image set, and find mirrored images and repeated patterns by descriptors.

    Args:
        keypoints: Keypoints of each image, with descriptors.
        pairs: Verified pairs.
        pointmaps: Pointmaps of the pairs; None if the matcher does not predict pointmaps.
        settings: Options of matching.

    Returns:
        The database, without the pairs in which exactly one image is mirrored.
    """
    # Exclude stationary content, such as logos: it is the same in ordinary and mirrored images, and it may
    # repeat.
    stationary = find_stationary_pixels(keypoints, pairs, settings)
    moving = remove_stationary_matches(keypoints, pairs, stationary, settings)
    repeated = measure_repetition(keypoints, moving, settings.ambiguity)
    mirrored = np.zeros(0, np.int64)
    if settings.matcher == "sift":  # only SIFT descriptors can be converted to those of the mirrored image
        mirrored = find_mirrored_images(keypoints, moving, stationary, settings)
        pairs = [pair for pair in pairs if (pair.first in mirrored) == (pair.second in mirrored)]
    return MatchDatabase(tuple(keypoints), tuple(pairs), pointmaps, repeated, mirrored)


def _pairs_to_arrays(pairs: Sequence[PairMatches]) -> dict[str, NDArray[Any]]:
    """Convert verified pairs to arrays by name for the cache."""
    return {
        "indices": np.concatenate([np.zeros((0, 2), np.int64), *(pair.indices for pair in pairs)]),
        "num_matches": np.array([len(pair.indices) for pair in pairs], np.int64),
        "stationary": np.concatenate([np.zeros((0, 2), np.int64), *(pair.stationary for pair in pairs)]),
        "num_second": np.array([pair.num_second_motion for pair in pairs], np.int64),
        "num_stationary": np.array([len(pair.stationary) for pair in pairs], np.int64),
        "images": np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2),
        "fundamentals": np.array([pair.fundamental for pair in pairs]).reshape(-1, 3, 3),
        "homography_ratios": np.array([pair.homography_ratio for pair in pairs], np.float64),
    }


def _pairs_from_arrays(arrays: dict[str, NDArray[Any]]) -> list[PairMatches]:
    """Create verified pairs from the arrays of `_pairs_to_arrays`."""
    return [
        PairMatches(
            int(first), int(second), indices, fundamental, float(ratio), stationary, int(num_second_motion)
        )
        for (first, second), indices, fundamental, ratio, stationary, num_second_motion in zip(
            arrays["images"],
            _split(arrays["indices"], arrays["num_matches"]),
            arrays["fundamentals"],
            arrays["homography_ratios"],
            _split(arrays["stationary"], arrays["num_stationary"]),
            arrays["num_second"],
            strict=True,
        )
    ]


def _tried_from_arrays(arrays: dict[str, NDArray[Any]]) -> dict[tuple[int, int], PairMatches | None]:
    """Convert cached arrays to the results of pairs that were matched earlier; None for rejected pairs."""
    known: dict[tuple[int, int], PairMatches | None] = dict.fromkeys(
        (int(first), int(second)) for first, second in arrays["tried"]
    )
    return known | {(pair.first, pair.second): pair for pair in _pairs_from_arrays(arrays)}


def _split(values: NDArray[Any], counts: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Split the rows of an array into consecutive parts with the given numbers of rows."""
    return np.split(values, np.cumsum(counts)[:-1]) if len(counts) else []


def _pointmaps_to_arrays(pointmaps: Pointmaps | None) -> dict[str, NDArray[Any]]:
    """Convert pointmaps to arrays by name for the cache; an empty dictionary if there are no pointmaps."""
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


def _pointmaps_from_arrays(arrays: dict[str, NDArray[Any]]) -> Pointmaps | None:
    """Create pointmaps from the arrays of `_pointmaps_to_arrays`; None if there are no pointmaps."""
    if "pointmap_images" not in arrays:
        return None
    shapes = arrays["pointmap_shapes"]

    def read_grids(name: str) -> list[NDArray[Any]]:
        parts = _split(arrays[name], shapes.prod(axis=1))
        return [part.reshape(*shape, *part.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]

    points, confidence = read_grids("pointmap_points"), read_grids("pointmap_confidence")
    pairs = [
        PairPointmaps(first, second, (points[i], points[i + 1]), (confidence[i], confidence[i + 1]))
        for i, (first, second) in zip(
            range(0, len(points), 2), arrays["pointmap_images"].tolist(), strict=True
        )
    ]
    return Pointmaps(arrays["grid_pixel_sizes"], arrays["grid_corners"], tuple(pairs))
