"""Matches in image regions that do not move while the scene moves, such as logos or dashboards.

Everything that moves with the camera looks like a static scene to a matcher. If such a region has more
texture than the scene, RANSAC selects its matches as inliers, and all poses are wrong. Stationary matches are
at the same pixel in both images and contradict the epipolar geometry of the other matches. If the camera does
not move, as in a burst, no matches are removed: either there are too few matches at different pixels, or the
stationary matches agree with the epipolar geometry of these matches.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.matching.options import MatchingSettings, StationaryOptions
from nope_splat.matching.verification import epipolar_errors, verify_pair
from nope_splat.scene.features import Keypoints, PairMatches
from nope_splat.scene.stationary import StationaryPixels, cell_of


def verify_without_stationary(
    first: int,
    second: int,
    indices: NDArray[np.int64],
    keypoints: Sequence[Keypoints],
    settings: MatchingSettings,
) -> PairMatches | None:
    """Verify the matches of an image pair; remove stationary matches if they contradict the other matches.

    Stationary matches are at the same pixel in both images. If at least `settings.min_matches` of them
    contradict the epipolar geometry of the other matches, all stationary matches are removed.

    Args:
        first: Index of one image.
        second: Index of the other image; may be smaller than `first`.
        indices: Putative matches: keypoint indices in the first and the second image. (M, 2).
        keypoints: Keypoints of all images.
        settings: Options of matching.

    Returns:
        The pair with its inlier matches; its field `stationary` contains the removed matches that contradict
        the epipolar geometry. None if there are too few inliers.
    """
    is_still = _at_same_pixel(indices, keypoints[first], keypoints[second], settings.stationary)
    if np.count_nonzero(is_still) >= settings.min_matches:
        moving = verify_pair(first, second, indices[~is_still], keypoints, settings)
        if moving is not None:
            still = indices[is_still] if first == moving.first else indices[is_still][:, ::-1]
            contradicting = epipolar_errors(moving, still, keypoints) > settings.max_epipolar_error
            if np.count_nonzero(contradicting) >= settings.min_matches:
                return replace(moving, stationary=np.ascontiguousarray(still[contradicting]))
    return verify_pair(first, second, indices, keypoints, settings)


def find_stationary_pixels(
    keypoints: Sequence[Keypoints], pairs: Sequence[PairMatches], settings: MatchingSettings
) -> tuple[StationaryPixels, ...]:
    """Find the grid cells with stationary matches: matches at the same pixel in both images, as on a logo.

    A cell must contain stationary matches of at least `min_num_pairs` pairs. Holes between such cells are
    filled.

    Args:
        keypoints: Keypoints of each image, with image sizes.
        pairs: Verified image pairs, from `verify_without_stationary`.
        settings: Options of matching.

    Returns:
        The stationary cells of each image size; image sizes without stationary cells are omitted.
    """
    options = settings.stationary
    votes: dict[tuple[int, int], Counter[tuple[int, int]]] = defaultdict(Counter)
    num_matches: Counter[tuple[int, int]] = Counter()
    for pair in pairs:
        size = keypoints[pair.first].image_size
        if size is None or not len(pair.stationary):
            continue
        cells = cell_of(keypoints[pair.first].xy[pair.stationary[:, 0]], size, _grid_shape(size, options))
        votes[size].update(set(zip(*(index.tolist() for index in cells), strict=True)))
        num_matches[size] += len(pair.stationary)
    stationary = []
    for size, votes_of_size in votes.items():
        cells = np.zeros(_grid_shape(size, options), bool)
        for cell, count in votes_of_size.items():
            cells[cell] = count >= options.min_num_pairs
        if cells.any():
            stationary.append(StationaryPixels(size, _fill_holes(cells), num_matches[size]))
    return tuple(stationary)


def remove_stationary_matches(
    keypoints: Sequence[Keypoints],
    pairs: Sequence[PairMatches],
    stationary: Sequence[StationaryPixels],
    settings: MatchingSettings,
) -> list[PairMatches]:
    """Remove the matches of keypoints in stationary cells, and verify the remaining matches again.

    Args:
        keypoints: Keypoints of each image, with image sizes.
        pairs: Verified image pairs.
        stationary: Stationary cells, from `find_stationary_pixels`.
        settings: Options of matching.

    Returns:
        The pairs that still have enough inlier matches, in the same order.
    """
    is_still = stationary_keypoints(keypoints, stationary)
    remaining = []
    for pair in pairs:
        first, second = pair.indices.T
        removed = is_still[pair.first][first] | is_still[pair.second][second]
        if not removed.any():
            remaining.append(pair)
            continue
        verified = verify_pair(pair.first, pair.second, pair.indices[~removed], keypoints, settings)
        if verified is not None:
            remaining.append(
                replace(verified, stationary=pair.stationary, num_second_motion=pair.num_second_motion)
            )
    return remaining


def stationary_keypoints(
    keypoints: Sequence[Keypoints], stationary: Sequence[StationaryPixels]
) -> list[NDArray[np.bool_]]:
    """Determine which keypoints are in stationary cells (see `StationaryPixels`).

    Args:
        keypoints: Keypoints of each image, with image sizes.
        stationary: Stationary cells, from `find_stationary_pixels`.

    Returns:
        For each image, True for keypoints in stationary cells. (K,).
    """
    cells_of_size = {pixels.size: pixels for pixels in stationary}
    is_still = []
    for features in keypoints:
        pixels = cells_of_size.get(features.image_size or (0, 0))
        is_still.append(np.zeros(len(features.xy), bool) if pixels is None else pixels.contains(features.xy))
    return is_still


def _at_same_pixel(
    indices: NDArray[np.int64], first: Keypoints, second: Keypoints, options: StationaryOptions
) -> NDArray[np.bool_]:
    """Determine which matches have both keypoints at the same pixel, up to `max_motion`. (M, 2) -> (M,).

    False for all matches if the two images differ in size.
    """
    if first.image_size is None or first.image_size != second.image_size:
        return np.zeros(len(indices), bool)
    motion = np.linalg.norm(first.xy[indices[:, 0]] - second.xy[indices[:, 1]], axis=1)
    return motion < options.max_motion * max(first.pixel_size, second.pixel_size)


def _grid_shape(size: tuple[int, int], options: StationaryOptions) -> tuple[int, int]:
    """Compute the number of rows and columns of a grid with nearly square cells over an image.

    `size` is the width and height of the image in pixels.
    """
    cell = max(size) / options.num_grid_cells
    return max(1, round(size[1] / cell)), max(1, round(size[0] / cell))


def _fill_holes(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark cells with more than four stationary cells among their eight neighbors, until nothing changes.

    Such cells belong to the same stationary region as their neighbors, but lack texture. `cells` and the
    result are True for stationary cells. (rows, columns).
    """
    neighbors = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.float32)
    for _ in range(max(cells.shape)):
        # Beyond the image border, the cells at the border are repeated.
        count = cv2.filter2D(cells.astype(np.float32), -1, neighbors, borderType=cv2.BORDER_REPLICATE)
        filled = cells | (count > 4.5)
        if (filled == cells).all():
            break
        cells = filled
    return cells
