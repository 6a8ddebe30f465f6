"""Evidence for and against the cameras, from matches that exist and from matches that are missing.

Wrong poses are consistent with the matches that led to them. What gives them away are other matches that
contradict them, and points that should be visible in an image and are not found there (Zach et al., "What
Can Missing Correspondences Tell Us About 3D Structure and Motion?", 2008; Wilson and Snavely, "Network
Principles for SfM", 2013).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import transform
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.options import EvidenceOptions
from nope_splat.sfm.retriangulation import epipolar_errors
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import angles_between
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class PairEvidence:
    """Evidence of ordered pairs of registered images, in ascending order."""

    image_ids: Indices
    """Image whose points are looked for, and image in which they are looked for. (P, 2)."""
    num_expected: Indices
    """Points of the first image that should be visible in the second. (P,)."""
    num_found: Indices
    """Those that are observed there. (P,)."""
    num_missing: Indices
    """Expected points in cells in which hardly any expected point is found. (P,)."""
    view_angle: Array
    """Median angle between the two views of the expected points, degrees. (P,)."""


@dataclass(frozen=True)
class MatchEvidence:
    """Agreement of the verified matches with the cameras."""

    num_matches: Indices
    """Verified matches of each pair of `SfmProblem.pairs` whose images are registered, else 0. (E,)."""
    num_agreeing: Indices
    """Those that agree with the poses. (E,)."""


def match_evidence(state: SfmState, problem: SfmProblem) -> MatchEvidence:
    """Count the verified matches that agree with the poses.

    Args:
        state: The refined state.
        problem: The component, with all verified matches.

    Returns:
        The counts.
    """
    num_matches, num_agreeing = np.zeros((2, len(problem.pairs)), np.int64)
    for index, pair in enumerate(problem.pairs):
        if state.registered[[pair.first, pair.second]].all():
            errors = epipolar_errors(state, problem.centered_keypoints, pair)
            num_matches[index] = len(errors)
            num_agreeing[index] = np.count_nonzero(errors < problem.options.re_max_epipolar_error)
    return MatchEvidence(num_matches, num_agreeing)


def pair_evidence(state: SfmState, options: EvidenceOptions) -> PairEvidence:
    """Look for the points of each registered image in the others.

    Args:
        state: The refined state.
        options: Which points are expected.

    Returns:
        The counts of all pairs with enough expected points.
    """
    rows = []
    visibility = _Visibility.of(state, options)
    registered = np.flatnonzero(state.registered).tolist()
    for first in registered:
        points = visibility.points_of(first)
        if len(points) < options.min_num_expected:
            continue
        for second in registered:
            if second != first:
                rows.extend(_look_for(visibility, first, second, points))
    table = np.array(rows, np.float64).reshape(-1, 6)
    return PairEvidence(*_split_columns(table))


def _split_columns(table: Array) -> Iterator[Array]:
    """Split the rows of `pair_evidence` into its fields."""
    counts = table[:, :5].astype(np.int64)
    yield counts[:, :2]
    yield from counts[:, 2:].T
    yield table[:, 5]


def _look_for(
    visibility: _Visibility, first: int, second: int, points: Indices
) -> Iterator[tuple[float, ...]]:
    """Count expected, found and missing points of one image in another; yield nothing if few are expected."""
    options = visibility.options
    expected, angles = visibility.expected(first, second, points)
    found = visibility.is_observed[points[expected], second]
    if len(found) < options.min_num_expected:
        return
    cells = visibility.cells(second, points[expected])
    in_cell, found_in_cell = np.bincount(cells), np.bincount(cells, weights=found)
    is_missing = (in_cell >= options.min_num_in_cell) & (
        found_in_cell <= options.max_found_in_cell * in_cell
    )
    num_missing = in_cell[is_missing].sum()
    yield first, second, len(found), found.sum(), num_missing, float(np.median(angles[expected]))


@dataclass(frozen=True)
class _Visibility:
    """Which points each image observes, and where it should see the others."""

    state: SfmState
    options: EvidenceOptions
    is_observed: Mask
    """Whether each track is observed in each image. (T, N)."""
    nearest: Array
    """Smallest depth of the observed points in each grid cell of each image, infinite without any. (N, C)."""

    @classmethod
    def of(cls, state: SfmState, options: EvidenceOptions) -> _Visibility:
        num_images, size = len(state.registered), options.num_grid_cells
        rows = np.flatnonzero(state.inlier)
        is_observed = np.zeros((len(state.points), num_images), bool)
        is_observed[state.track_ids[rows], state.image_ids[rows]] = True
        visibility = cls(state, options, is_observed, np.full((num_images, size**2), np.inf))
        for image_id in np.flatnonzero(state.registered).tolist():
            points = np.flatnonzero(is_observed[:, image_id])
            depths = transform(state.T_camera_world[image_id], state.points[points])[:, 2]
            np.minimum.at(visibility.nearest[image_id], visibility.cells(image_id, points), depths)
        return visibility

    def points_of(self, image_id: int) -> Indices:
        """Sample the points that an image observes."""
        points = np.flatnonzero(self.is_observed[:, image_id])
        sample = np.random.default_rng(0).permutation(len(points))[: self.options.max_num_points]
        return np.sort(points[sample])

    def project(self, image_id: int, points: Indices) -> tuple[Array, Array]:
        """Project points into an image: feature pixels from the center (n, 2), and depths (n,)."""
        state = self.state
        points_camera = transform(state.T_camera_world[image_id], state.points[points])
        camera = state.camera_ids[image_id]
        xy = project(points_camera, state.focal[camera], state.radial[camera], min_depth=1e-9)
        return xy + state.offset[camera], points_camera[:, 2]

    def cells(self, image_id: int, points: Indices) -> Indices:
        """Compute the grid cells of points in an image. (n,)."""
        size, half_size = self.options.num_grid_cells, self.state.half_size[image_id]
        xy, _ = self.project(image_id, points)
        cells = ((xy + half_size) / (2 * half_size.max()) * size).astype(np.int64).clip(0, size - 1)
        return cells[:, 1] * size + cells[:, 0]

    def expected(self, first: int, second: int, points: Indices) -> tuple[Mask, Array]:
        """Decide which points of the first image should be observed in the second.

        Returns:
            Whether each point is expected (n,), and the angle between its two views in degrees (n,).
        """
        state, options = self.state, self.options
        centers = state.centers()
        half_size = state.half_size[second]
        xy, depth = self.project(second, points)
        with np.errstate(invalid="ignore"):
            inside = (np.abs(xy) < half_size - 2 * options.border * half_size.max()).all(1) & (depth > 0)
        _, own_depth = self.project(first, points)
        focal = state.focal[state.camera_ids[[first, second]]]
        scale = (focal[1] / np.maximum(depth, 1e-9)) / (focal[0] / np.maximum(own_depth, 1e-9))
        similar = (scale < options.max_scale_ratio) & (scale > 1 / options.max_scale_ratio)
        angles = angles_between(state.points[points] - centers[first], state.points[points] - centers[second])
        expected = inside & similar & (angles < options.max_view_angle)
        candidates = np.flatnonzero(expected)
        nearest = self.nearest[second, self.cells(second, points[candidates])]
        hidden = nearest < options.max_occluder_depth_ratio * depth[candidates]
        expected[candidates[hidden]] = False
        return expected, angles
