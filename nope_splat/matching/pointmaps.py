"""Feature tracks from the pointmaps of a network such as DUSt3R.

A pointmap assigns a 3D point to each pixel of an image, in the camera frame of the first image of an ordered
pair. The unit is arbitrary for each pair. There are no keypoints to match. Instead, a grid of pixels in each
image, the anchors, is matched to all images with which the image was paired. An anchor and its matches form
one track, so a track has at most one observation per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from nope_splat.depth import depth_edges
from nope_splat.matching.options import PointmapOptions
from nope_splat.utils.typing import Array, Mask


@dataclass(frozen=True)
class Pointmap:
    """Pointmap: a 3D point for each pixel of one image of a pair."""

    points: Array
    """Coordinates in the camera frame of the first image of the pair, in an arbitrary unit. (H, W, 3)."""
    valid: Mask
    """True for pixels whose point is finite, confident and not on a depth edge. (H, W)."""

    @classmethod
    def from_prediction(
        cls,
        points: NDArray[np.floating],
        confidence: NDArray[np.floating],
        options: PointmapOptions,
        mask: Mask | None = None,
    ) -> Pointmap:
        """Create a pointmap from a network's output, with unreliable points marked as invalid.

        Args:
            points: Predicted points, in the camera frame of the pair's first image. (H, W, 3).
            confidence: Predicted confidence, at least one. (H, W).
            options: Smallest confidence of a valid point.
            mask: True for pixels that may be used; None to use all pixels. (H, W).

        Returns:
            The pointmap. Points that are not finite are invalid and set to zero, because NaN would spread to
            other results.
        """
        finite = np.isfinite(points).all(-1) & np.isfinite(confidence)
        points = np.where(finite[..., None], points, 0.0).astype(np.float64)
        valid = finite & (np.where(finite, confidence, 0) >= options.min_confidence)
        if mask is not None:
            valid &= mask
        valid &= ~depth_edges(np.linalg.norm(points, axis=-1))
        return cls(points, valid)


def anchor_pixels(shape: tuple[int, ...], spacing: int) -> NDArray[np.int64]:
    """Compute the grid of anchor pixels of an image.

    Args:
        shape: Height and width of the image in pixels.
        spacing: Distance in pixels between neighboring anchors.

    Returns:
        Column and row of each anchor, row by row. (K, 2).
    """
    height, width = shape
    columns = np.arange(spacing // 2, width, spacing)
    rows = np.arange(spacing // 2, height, spacing)
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def match_anchors(source: Pointmap, target: Pointmap, options: PointmapOptions) -> Array:
    """Match the anchors of one image to another image.

    The match of an anchor is the pixel whose 3D point is nearest to the anchor's 3D point. The match is kept
    if the search in the reverse direction leads back to within `max_cycle_error` of the anchor. For sub-pixel
    accuracy, a plane is fitted to the points around the matched pixel, and the match is moved to the position
    at which the plane is nearest to the anchor's point.

    Args:
        source: Pointmap of the image with the anchors.
        target: Pointmap of the other image, in the same frame and unit.
        options: Anchor spacing, maximum cycle error, and window of the plane fit.

    Returns:
        Positions in the other image in pixels, x then y, with the center of the first pixel at (0.5, 0.5);
        NaN for anchors without a match. (K, 2).
    """
    anchors = anchor_pixels(source.valid.shape, options.anchor_spacing)
    positions = np.full(anchors.shape, np.nan)
    if not source.valid.any() or not target.valid.any():
        return positions
    radius = options.plane_radius
    anchor_points, _, fitted = _fit_planes(source, anchors, radius)
    rows = np.flatnonzero(fitted)
    pixels = _nearest_pixels(target, anchor_points[rows])
    surface, slope, fitted = _fit_planes(target, pixels, radius)
    rows, pixels, surface, slope = rows[fitted], pixels[fitted], surface[fitted], slope[fitted]
    cycle_error = np.linalg.norm(_nearest_pixels(source, surface) - anchors[rows], axis=1)
    consistent = cycle_error <= options.max_cycle_error
    rows, pixels = rows[consistent], pixels[consistent]
    surface, slope = surface[consistent], slope[consistent]
    offset = np.einsum("nij,nj->ni", np.linalg.pinv(slope), anchor_points[rows] - surface)
    near = np.abs(offset).max(axis=1, initial=0.0) <= radius
    positions[rows[near]] = pixels[near] + 0.5 + offset[near]
    return positions


def average_matches(forward: Array, backward: Array, max_error: float) -> Array:
    """Average the two matches of each anchor that the network gives for the image orders (i, j) and (j, i).

    Args:
        forward: Position of the match of each anchor from one order, in pixels; NaN without a match. (K, 2).
        backward: The same for the other order. (K, 2).
        max_error: Maximum distance in pixels between the two positions of a match.

    Returns:
        Mean positions in pixels; NaN for anchors that lack a match in one or both orders, and for anchors
        whose two positions differ by more than `max_error`. (K, 2).
    """
    close = np.linalg.norm(forward - backward, axis=1) <= max_error
    return np.where(close[:, None], (forward + backward) / 2, np.nan)


def build_anchor_tracks(
    matches: Mapping[tuple[int, int], Array], shapes: Sequence[tuple[int, int]], spacing: int
) -> tuple[list[NDArray[np.int64]], list[Array]]:
    """Build one track from each anchor and its matches.

    Anchors without matches are skipped. Anchors in the same grid cell as an observation of an earlier track
    are skipped, too; the cells are squares with the side length `spacing`.

    Args:
        matches: For each ordered image pair, the position in the second image that matches each anchor of the
            first image, in pixels; NaN for anchors without a match. (K, 2) each.
        shapes: Height and width of each image in pixels.
        spacing: Distance in pixels between neighboring anchors.

    Returns:
        For each image, the indices of the tracks that it observes, ascending (n,), and the observed positions
        in pixels (n, 2).
    """
    tracks: list[list[int]] = [[] for _ in shapes]
    positions: list[list[Array]] = [[] for _ in shapes]
    taken = [np.zeros((-(-height // spacing), -(-width // spacing)), bool) for height, width in shapes]
    num_tracks = 0
    for image_id, shape in enumerate(shapes):
        partners = [second for first, second in matches if first == image_id]
        for index, (column, row) in enumerate(anchor_pixels(shape, spacing).tolist()):
            if taken[image_id][row // spacing, column // spacing]:
                continue
            observations = [(partner, matches[image_id, partner][index]) for partner in partners]
            observations = [(partner, xy) for partner, xy in observations if np.isfinite(xy).all()]
            if not observations:
                continue
            anchor = (image_id, np.array([column + 0.5, row + 0.5]))
            for observer, xy in [anchor, *observations]:
                tracks[observer].append(num_tracks)
                positions[observer].append(xy)
                height, width = shapes[observer]
                x, y = np.clip(xy, 0, (width - 1, height - 1)).astype(int) // spacing
                taken[observer][y, x] = True
            num_tracks += 1
    return [np.array(ids, np.int64) for ids in tracks], [np.reshape(xy, (-1, 2)) for xy in positions]


def _nearest_pixels(pointmap: Pointmap, points: Array) -> NDArray[np.int64]:
    """Find the valid pixel whose point is nearest to each given point.

    Args:
        pointmap: The pointmap, with at least one valid pixel.
        points: 3D points in the frame of the pointmap. (n, 3).

    Returns:
        Column and row of the pixels. (n, 2).
    """
    rows, columns = np.nonzero(pointmap.valid)
    _, index = KDTree(pointmap.points[rows, columns]).query(points)
    return np.stack([columns[index], rows[index]], axis=1)


def _fit_planes(pointmap: Pointmap, pixels: NDArray[np.int64], radius: int) -> tuple[Array, Array, Mask]:
    """Fit a plane to the points around each given pixel: an affine map from pixel offset to 3D point.

    Args:
        pointmap: The pointmap.
        pixels: Columns and rows of the given pixels. (n, 2).
        radius: Radius of the square window, in pixels.

    Returns:
        Fitted point at the pixel (n, 3), its derivatives with respect to column and row (n, 3, 2), and
        whether the pixel and more than half of its window are valid (n,).
    """
    height, width = pointmap.valid.shape
    reach = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    columns, rows = np.moveaxis(pixels[:, None] + offsets, -1, 0)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = columns.clip(0, width - 1), rows.clip(0, height - 1)
    weight = (inside & pointmap.valid[rows, columns]).astype(np.float64)
    basis = np.concatenate([np.ones((len(offsets), 1)), offsets], axis=1)
    normal = np.einsum("nk,ki,kj->nij", weight, basis, basis) + 1e-9 * np.eye(3)
    right = np.einsum("nk,ki,nkj->nij", weight, basis, pointmap.points[rows, columns])
    fit = np.linalg.solve(normal, right)
    fitted = pointmap.valid[pixels[:, 1], pixels[:, 0]] & (weight.sum(1) > len(offsets) / 2)
    return fit[:, 0], np.swapaxes(fit[:, 1:], 1, 2), fitted
