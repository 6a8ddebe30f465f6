"""Points that should be visible in other images and are not observed there.

The method follows Zach et al., "What Can Missing Correspondences Tell Us About 3D Structure and Motion?",
2008.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.projection import is_visible, project
from nope_splat.geometry.rigid import transform
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.options import EvidenceOptions
from nope_splat.sfm.state import SfmState
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
    visibility = _Visibility.of(state, problem)
    counts = [_count_missing(visibility, first) for first in np.flatnonzero(state.registered).tolist()]
    rows = np.concatenate([np.zeros((0, 5), np.int64), *counts])
    return MissingPoints(rows[:, :2], *rows[:, 2:].T)


def _count_missing(visibility: _Visibility, first: int) -> Indices:
    """Count the points of one image that are expected, observed and missing in each other image.

    Args:
        visibility: Visibility of the points.
        first: Image that observes the points.

    Returns:
        One row for each of the m images in which enough points are expected: indices of both images, and
        numbers of expected, observed and missing points. (m, 5).
    """
    options, shape = visibility.options, visibility.nearest.shape
    second, points, cells = visibility.expected(first)
    observed = visibility.is_observed[points, second]
    cells += second * shape[1]
    in_cell = np.bincount(cells, minlength=visibility.nearest.size).reshape(shape)
    observed_in_cell = np.bincount(cells, observed, visibility.nearest.size).reshape(shape)
    is_missing = (in_cell >= options.min_num_points_in_cell) & (
        observed_in_cell <= options.max_observed_ratio_in_cell * in_cell
    )
    num_elsewhere, num_observed = (
        np.where(is_missing, 0, number).sum(axis=1) for number in (in_cell, observed_in_cell)
    )
    # Cells without keypoints may be dark, overexposed or blurred, if few points are observed elsewhere.
    may_be_dark = num_observed < options.min_recall * num_elsewhere
    has_keypoints = visibility.num_keypoints >= options.min_num_points_in_cell
    is_missing &= has_keypoints | ~may_be_dark[:, None]
    num_expected = in_cell.sum(axis=1)
    images = np.flatnonzero(num_expected >= options.min_num_overlap_points)
    return np.column_stack(
        [
            np.full(len(images), first),
            images,
            num_expected[images],
            observed_in_cell[images].sum(axis=1).astype(np.int64),
            np.where(is_missing, in_cell, 0)[images].sum(axis=1),
        ]
    )


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
        image_ids, points = state.image_ids[rows], state.track_ids[rows]
        is_observed = np.zeros((len(state.points), num_images), bool)
        is_observed[points, image_ids] = True
        nearest = np.full((num_images, num_cells), np.inf)
        num_keypoints = np.zeros((num_images, num_cells), np.int64)
        visibility = cls(state, options, is_observed, nearest, num_keypoints)
        xy, depths = visibility.project(image_ids, points)
        np.minimum.at(nearest, (image_ids, visibility.cells_at(image_ids, xy)), depths)
        for image_id in np.flatnonzero(state.registered).tolist():
            cells = visibility.cells_at(image_id, problem.centered_keypoints[image_id])
            num_keypoints[image_id] = np.bincount(cells, minlength=num_cells)
        return visibility

    def points_of(self, image_id: int) -> Indices:
        """Return the indices of the points that an image observes, or of a random sample of them. (n,)."""
        points = np.flatnonzero(self.is_observed[:, image_id])
        sample = np.random.default_rng(0).permutation(len(points))[: self.options.max_num_points]
        return np.sort(points[sample])

    def project(self, image_ids: Indices | int, points: Indices) -> tuple[Array, Array]:
        """Project points into images.

        Args:
            image_ids: Image of each point, or one image for all points. (n,) or ().
            points: Indices of the points. (n,).

        Returns:
            Image coordinates relative to the image center, in pixels at keypoint detection resolution (n, 2),
            and depths, or distances for fisheye lenses (n,).
        """
        state = self.state
        points_camera = transform(state.T_camera_world[image_ids], state.points[points])
        all_images, camera = np.arange(len(state.registered)), state.camera_ids[image_ids]
        lenses = state.lenses(all_images).select(image_ids)
        xy = project(points_camera, state.focal[camera, None], lenses, min_depth=1e-9)
        depth = points_camera[:, 2]
        if lenses.has_fisheye:
            visible = is_visible(points_camera, lenses.is_fisheye)
            distance = np.where(visible, np.linalg.norm(points_camera, axis=1), -1.0)
            depth = np.where(lenses.is_fisheye, distance, depth)
        return xy + state.offsets(all_images)[image_ids], depth

    def cells_at(self, image_ids: Indices | int, xy: Array) -> Indices:
        """Compute the index of the grid cell of each position in an image.

        Args:
            image_ids: Image of each position, or one image for all positions. (n,) or ().
            xy: Positions relative to the image center, in pixels at keypoint detection resolution. (n, 2).

        Returns:
            Cell indices, row by row; positions outside the grid get the nearest cell. (n,).
        """
        size, half_size = self.options.num_grid_cells, self.state.half_size
        longer_sides = 2 * half_size.max(axis=1, keepdims=True)
        cells = ((xy + half_size[image_ids]) / longer_sides[image_ids] * size).astype(np.int64)
        cells = cells.clip(0, size - 1)
        return cells[:, 1] * size + cells[:, 0]

    def expected(self, first: int) -> tuple[Indices, Indices, Indices]:
        """Find the points of one image that should be observed in other registered images.

        A point is expected if it projects into the other image, if both images see it at a similar scale and
        from a similar direction, and if it is not occluded.

        Args:
            first: Image that observes the points.

        Returns:
            Image, point and grid cell of each expected observation. (m,), (m,), (m,).
        """
        state, options = self.state, self.options
        points = self.points_of(first)
        others = np.flatnonzero(state.registered)
        others = others[others != first]
        # Few images see a point from a similar direction, so points are only projected into those.
        number, index = np.nonzero(self._is_similar_direction(first, others, points))
        second, index_points = others[number], points[index]
        xy, depth = self.project(second, index_points)
        margin = 2 * options.margin_ratio * state.half_size.max(axis=1, keepdims=True)
        is_inside = np.abs(xy) < (state.half_size - margin)[second]
        is_expected = is_inside[:, 0] & is_inside[:, 1] & (depth > 0)
        depth_first = transform(state.T_camera_world[first], state.points[points])[:, 2]
        focal, focal_first = state.focal[state.camera_ids[second]], state.focal[state.camera_ids[first]]
        scale = (focal / np.maximum(depth, 1e-9)) / (focal_first / np.maximum(depth_first, 1e-9))[index]
        is_expected &= (scale < options.max_scale_ratio) & (scale > 1 / options.max_scale_ratio)
        second, xy, depth = second[is_expected], xy[is_expected], depth[is_expected]
        cells = self.cells_at(second, xy)
        is_visible = self.nearest[second, cells] >= options.max_occluder_depth_ratio * depth
        return second[is_visible], index_points[is_expected][is_visible], cells[is_visible]

    def _is_similar_direction(self, first: int, others: Indices, points: Indices) -> Mask:
        """Decide whether each point is seen from similar directions by one image and by other images.

        Args:
            first: Index of the image.
            others: Indices of the other images. (m,).
            points: Indices of the points. (n,).

        Returns:
            True where the directions differ by less than `max_view_angle`. (m, n).
        """
        positions, centers = self.state.points[points].T, self.state.centers().T
        view_first = positions - centers[:, first, None]
        views = positions[:, None] - centers[:, others, None]
        lengths = np.sqrt(
            np.einsum("imn,imn->mn", views, views) * np.einsum("in,in->n", view_first, view_first)
        )
        cosine = np.cos(np.radians(self.options.max_view_angle))
        return np.einsum("imn,in->mn", views, view_first) > cosine * lengths
