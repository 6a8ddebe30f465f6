"""Matches from pointmaps: what a network such as DUSt3R says about a pair, turned into tracks.

A pointmap gives a 3D point to each pixel, in the frame of the first image of an ordered pair and in a
unit of the pair's own. Images have no keypoints here. Instead a grid of anchors in each is looked up in
its partners; an anchor with what is found of it is one track, so that no track can contradict itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from nope_splat.depth import on_depth_edge
from nope_splat.utils.typing import Array, Mask

SPACING = 12
"""Pixels between anchors."""
MIN_CONFIDENCE = 1.5
"""Confidence, of one or more, from which a point is used."""
MAX_CYCLE = 1.5
"""Pixels by which the way to the other image and back may miss the anchor."""
MAX_DISAGREEMENT = 2.0
"""Pixels by which the two orders of a pair may disagree."""
WINDOW = 2
"""Reach, in pixels, of the window whose points are fitted to a plane for sub-pixel positions."""


@dataclass(frozen=True)
class Pointmap:
    """A 3D point for each pixel of one image."""

    points: Array
    """Coordinates in the frame of the first image of a pair, in the pair's own unit. (H, W, 3)."""
    usable: Mask
    """Pixels whose point is finite, confident and not on a depth edge. (H, W)."""

    @classmethod
    def sanitised(
        cls, points: NDArray[np.floating], confidence: NDArray[np.floating], mask: Mask | None = None
    ) -> Pointmap:
        """A pointmap of which only good points are used: one NaN would poison all that it touches.

        Args:
            points: As the network gives them. (H, W, 3).
            confidence: At least one where anything is known. (H, W).
            mask: Pixels that may be used; all if None. (H, W).

        Returns:
            The pointmap; points that are not finite are zero, and not usable.
        """
        finite = np.isfinite(points).all(-1) & np.isfinite(confidence)
        points = np.where(finite[..., None], points, 0.0).astype(np.float64)
        usable = finite & (np.where(finite, confidence, 0) >= MIN_CONFIDENCE)
        if mask is not None:
            usable &= mask
        usable &= ~on_depth_edge(np.linalg.norm(points, axis=-1))
        return cls(points, usable)


def anchor_pixels(height: int, width: int) -> NDArray[np.int64]:
    """The grid of anchors in an image: columns and rows of pixels. (K, 2)."""
    columns = np.arange(SPACING // 2, width, SPACING)
    rows = np.arange(SPACING // 2, height, SPACING)
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def look_up(source: Pointmap, target: Pointmap) -> Array:
    """Find the anchors of one image in another.

    The point nearest to that of the anchor is taken if the point nearest to that one is the anchor's again,
    and refined to where a plane through its surroundings passes nearest to the anchor's point.

    Args:
        source: Pointmap of the image of the anchors.
        target: Pointmap of the other image, in the same frame and unit.

    Returns:
        Positions in the other image, the center of its first pixel at (0.5, 0.5); NaN where there is
        none. (K, 2).
    """
    anchors = anchor_pixels(*source.usable.shape)
    found = np.full(anchors.shape, np.nan)
    if not source.usable.any() or not target.usable.any():
        return found
    center, _, known = _fit_planes(source, anchors)
    rows = np.flatnonzero(known)
    there = _nearest(target, center[rows])
    surface, slope, known = _fit_planes(target, there)
    rows, there, surface, slope = rows[known], there[known], surface[known], slope[known]
    back = _nearest(source, surface)
    returns = np.linalg.norm(back - anchors[rows], axis=1) <= MAX_CYCLE
    rows, there, surface, slope = rows[returns], there[returns], surface[returns], slope[returns]
    offset = np.einsum("nij,nj->ni", np.linalg.pinv(slope), center[rows] - surface)
    near = np.abs(offset).max(axis=1, initial=0.0) <= WINDOW
    found[rows[near]] = there[near] + 0.5 + offset[near]
    return found


def agree(forward: Array, backward: Array) -> Array:
    """The mean of what both orders of a pair say, NaN where they disagree. (K, 2), (K, 2) -> (K, 2)."""
    close = np.linalg.norm(forward - backward, axis=1) <= MAX_DISAGREEMENT
    return np.where(close[:, None], (forward + backward) / 2, np.nan)


def star_tracks(
    found: Mapping[tuple[int, int], Array], shapes: Sequence[tuple[int, int]]
) -> tuple[list[NDArray[np.int64]], list[Array]]:
    """Tracks of one anchor each, seeded only where no earlier track passes.

    Args:
        found: Where the anchors of the first image are in the second. (K, 2) each.
        shapes: Height and width of each image.

    Returns:
        For each image the tracks that it sees, ascending (n,), and where (n, 2).
    """
    tracks: list[list[int]] = [[] for _ in shapes]
    positions: list[list[Array]] = [[] for _ in shapes]
    taken = [np.zeros((-(-height // SPACING), -(-width // SPACING)), bool) for height, width in shapes]
    number = 0
    for image_id, shape in enumerate(shapes):
        partners = [second for first, second in found if first == image_id]
        for index, (column, row) in enumerate(anchor_pixels(*shape).tolist()):
            if taken[image_id][row // SPACING, column // SPACING]:
                continue
            sightings = [(other, found[image_id, other][index]) for other in partners]
            sightings = [(other, xy) for other, xy in sightings if np.isfinite(xy).all()]
            if not sightings:
                continue
            for other, xy in [(image_id, np.array([column + 0.5, row + 0.5])), *sightings]:
                tracks[other].append(number)
                positions[other].append(xy)
                height, width = shapes[other]
                x, y = np.clip(xy, 0, (width - 1, height - 1)).astype(int) // SPACING
                taken[other][y, x] = True
            number += 1
    return [np.array(one, np.int64) for one in tracks], [np.reshape(one, (-1, 2)) for one in positions]


def _nearest(pointmap: Pointmap, points: Array) -> NDArray[np.int64]:
    """Column and row of the usable pixel whose point is nearest to each point. (n, 3) -> (n, 2)."""
    rows, columns = np.nonzero(pointmap.usable)
    _, index = KDTree(pointmap.points[rows, columns]).query(points)
    return np.stack([columns[index], rows[index]], axis=1)


def _fit_planes(pointmap: Pointmap, pixels: NDArray[np.int64]) -> tuple[Array, Array, Mask]:
    """Affine functions from pixel offset to point, fitted to the usable pixels around given ones.

    Args:
        pointmap: The points.
        pixels: Columns and rows. (n, 2).

    Returns:
        Point at the pixel (n, 3), derivatives by column and row (n, 3, 2), and whether the pixel and most of
        its window are usable (n,).
    """
    height, width = pointmap.usable.shape
    reach = np.arange(-WINDOW, WINDOW + 1)
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    columns, rows = np.moveaxis(pixels[:, None] + offsets, -1, 0)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = columns.clip(0, width - 1), rows.clip(0, height - 1)
    weight = (inside & pointmap.usable[rows, columns]).astype(np.float64)
    basis = np.concatenate([np.ones((len(offsets), 1)), offsets], axis=1)
    normal = np.einsum("nk,ki,kj->nij", weight, basis, basis) + 1e-9 * np.eye(3)
    right = np.einsum("nk,ki,nkj->nij", weight, basis, pointmap.points[rows, columns])
    fit = np.linalg.solve(normal, right)
    known = pointmap.usable[pixels[:, 1], pixels[:, 0]] & (weight.sum(1) > len(offsets) / 2)
    return fit[:, 0], np.swapaxes(fit[:, 1:], 1, 2), known
