"""Points that should be visible in other images and are not observed there.

The method follows Zach et al., "What Can Missing Correspondences Tell Us About 3D Structure and Motion?",
2008.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import transform
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.options import EvidenceOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import angles_between
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class MissingPoints:
    """Numbers of points that should be visible in other images, for P ordered pairs of registered images."""

    image_ids: Indices
    """Column 0: image that observes the points. Column 1: image in which their visibility is tested. (P,
    2)."""
    num_expected: Indices
    """Number of points of the first image that should be visible in the second image. (P,)."""
    num_observed: Indices
    """Number of expected points that are observed in the second image. (P,)."""
    num_missing: Indices
    """Number of expected points in grid cells of the second image in which hardly any expected point is
    observed, so that the cells seem to show something else. (P,)."""


def find_missing_points(state: SfmState, problem: SfmProblem) -> MissingPoints:
    """Test whether the points of each registered image are observed in the other registered images.

    Args:
        state: The refined state.
        problem: Keypoints of the images, and conditions under which a point is expected in another image.

    Returns:
        Numbers of points for all ordered pairs of images with enough expected points.
    """
    rows = []
    visibility = _Visibility.of(state, problem)
    registered = np.flatnonzero(state.registered).tolist()
    for first in registered:
        points = visibility.points_of(first)
        for second in registered:
            if second != first:
                rows.extend(_count_missing(visibility, first, second, points))
    counts = np.array(rows, np.int64).reshape(-1, 5)
    return MissingPoints(counts[:, :2], *counts[:, 2:].T)


def _count_missing(
    visibility: _Visibility, first: int, second: int, points: Indices
) -> Iterator[tuple[int, ...]]:
    """Count the points of one image that are expected, observed and missing in another image.

    Args:
        visibility: Visibility of the points.
        first: Image that observes the points.
        second: Image in which the points are expected.
        points: Indices of points that the first image observes.

    Yields:
        Indices of both images, and numbers of expected, observed and missing points; nothing if too few
        points are expected.
    """
    options = visibility.options
    expected = visibility.expected(first, second, points)
    observed = visibility.is_observed[points[expected], second]
    if len(observed) < options.min_num_overlap_points:
        return
    cells = visibility.cells(second, points[expected])
    in_cell, observed_in_cell = np.bincount(cells), np.bincount(cells, weights=observed)
    is_missing = (in_cell >= options.min_num_points_in_cell) & (
        observed_in_cell <= options.max_observed_ratio_in_cell * in_cell
    )
    num_elsewhere, num_observed = in_cell[~is_missing].sum(), observed_in_cell[~is_missing].sum()
    if num_observed < options.min_recall * num_elsewhere:
        # Cells without keypoints may be dark, overexposed or blurred, if few points are observed elsewhere.
        is_missing &= visibility.num_keypoints[second, : len(in_cell)] >= options.min_num_points_in_cell
    yield first, second, len(observed), int(observed.sum()), int(in_cell[is_missing].sum())


@dataclass(frozen=True)
class _Visibility:
    """Visibility of points: which images observe them, and which other images should observe them."""

    state: SfmState
    options: EvidenceOptions
    is_observed: Mask
    """Whether each track is observed in each image. (T, N)."""
    nearest: Array
    """Smallest depth of the observed points in each of the C grid cells of each image; infinite for empty
    cells. (N, C)."""
    num_keypoints: Indices
    """Number of keypoints in each grid cell of each image. (N, C)."""

    @classmethod
    def of(cls, state: SfmState, problem: SfmProblem) -> _Visibility:
        options = problem.options.reliability.evidence
        num_images, num_cells = len(state.registered), options.num_grid_cells**2
        rows = np.flatnonzero(state.inlier)
        is_observed = np.zeros((len(state.points), num_images), bool)
        is_observed[state.track_ids[rows], state.image_ids[rows]] = True
        nearest = np.full((num_images, num_cells), np.inf)
        num_keypoints = np.zeros((num_images, num_cells), np.int64)
        visibility = cls(state, options, is_observed, nearest, num_keypoints)
        for image_id in np.flatnonzero(state.registered).tolist():
            points = np.flatnonzero(is_observed[:, image_id])
            depths = transform(state.T_camera_world[image_id], state.points[points])[:, 2]
            np.minimum.at(nearest[image_id], visibility.cells(image_id, points), depths)
            cells = visibility.cells_at(image_id, problem.centered_keypoints[image_id])
            num_keypoints[image_id] = np.bincount(cells, minlength=num_cells)
        return visibility

    def points_of(self, image_id: int) -> Indices:
        """Return the indices of the points that an image observes, or of a random sample of them. (n,)."""
        points = np.flatnonzero(self.is_observed[:, image_id])
        sample = np.random.default_rng(0).permutation(len(points))[: self.options.max_num_points]
        return np.sort(points[sample])

    def project(self, image_id: int, points: Indices) -> tuple[Array, Array]:
        """Project points into an image.

        Args:
            image_id: Index of the image.
            points: Indices of the points. (n,).

        Returns:
            Image coordinates relative to the image center, in pixels at keypoint detection resolution (n, 2),
            and depths (n,).
        """
        state = self.state
        points_camera = transform(state.T_camera_world[image_id], state.points[points])
        lens = state.lenses(image_id)
        xy = project(points_camera, state.focal[state.camera_ids[image_id]], lens, min_depth=1e-9)
        return xy + state.offsets(image_id), points_camera[:, 2]

    def cells(self, image_id: int, points: Indices) -> Indices:
        """Compute the index of the grid cell of an image into which each point projects. (n,)."""
        return self.cells_at(image_id, self.project(image_id, points)[0])

    def cells_at(self, image_id: int, xy: Array) -> Indices:
        """Compute the index of the grid cell of each position in an image.

        Args:
            image_id: Index of the image.
            xy: Positions relative to the image center, in pixels at keypoint detection resolution. (n, 2).

        Returns:
            Cell indices, row by row; positions outside the grid get the nearest cell. (n,).
        """
        size, half_size = self.options.num_grid_cells, self.state.half_size[image_id]
        cells = ((xy + half_size) / (2 * half_size.max()) * size).astype(np.int64).clip(0, size - 1)
        return cells[:, 1] * size + cells[:, 0]

    def expected(self, first: int, second: int, points: Indices) -> Mask:
        """Decide which points of the first image should be observed in the second image.

        A point is expected if it projects into the second image, if both images see it at a similar scale and
        from a similar direction, and if it is not occluded.

        Args:
            first: Image that observes the points.
            second: Image in which the points may be expected.
            points: Indices of points that the first image observes. (n,).

        Returns:
            True for expected points. (n,).
        """
        state, options = self.state, self.options
        centers = state.centers()
        half_size = state.half_size[second]
        xy, depth = self.project(second, points)
        with np.errstate(invalid="ignore"):
            inside = (np.abs(xy) < half_size - 2 * options.margin_ratio * half_size.max()).all(1) & (
                depth > 0
            )
        _, depth_first = self.project(first, points)
        focal = state.focal[state.camera_ids[[first, second]]]
        scale = (focal[1] / np.maximum(depth, 1e-9)) / (focal[0] / np.maximum(depth_first, 1e-9))
        similar = (scale < options.max_scale_ratio) & (scale > 1 / options.max_scale_ratio)
        angles = angles_between(state.points[points] - centers[first], state.points[points] - centers[second])
        expected = inside & similar & (angles < options.max_view_angle)
        candidates = np.flatnonzero(expected)
        nearest = self.nearest[second, self.cells(second, points[candidates])]
        hidden = nearest < options.max_occluder_depth_ratio * depth[candidates]
        expected[candidates[hidden]] = False
        return expected
