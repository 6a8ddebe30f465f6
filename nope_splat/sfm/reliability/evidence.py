"""Evidence for and against the cameras, from existing and from missing matches.

Wrong poses agree with the matches from which they were estimated. Two observations reveal wrong poses: other
matches contradict them, or points that should be visible in an image are not observed in that image (Zach et
al., "What Can Missing Correspondences Tell Us About 3D Structure and Motion?", 2008; Wilson and Snavely,
"Network Principles for SfM", 2013).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import transform
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.match_agreement import count_matches, find_own_poses
from nope_splat.sfm.reliability.options import EvidenceOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import angles_between
from nope_splat.utils.typing import Array, Indices, Mask


@dataclass(frozen=True)
class Evidence:
    """Evidence for and against the cameras, from E verified pairs."""

    pairs: tuple[tuple[int, int], ...]
    """Image indices of each verified pair, smaller index first."""
    num_matches: Indices
    """Number of verified matches of each pair; 0 if an image of the pair is not registered. (E,)."""
    num_agreeing: Indices
    """Number of matches of each pair that agree with the poses. (E,)."""
    has_own_pose: Mask
    """Whether each pair disagrees with the poses while nearly all of its matches are inliers of a different
    relative pose. (E,)."""
    has_second_motion: Mask
    """Whether matches of each pair support a second epipolar geometry, such as that of a moving object.
    (E,)."""
    missing: MissingPoints
    """Points that should be visible in other images, and whether they are observed there."""
    repeats: bool
    """Whether a pattern repeats within most images."""
    num_views: int
    """Number of different views among the registered images; images without motion between them count
    once."""
    focal_noise_ratio: float
    """Ratio of the observation noise after bundle adjustment at a wrong focal length to the noise at the
    refined focal length; the smaller ratio of a longer and a shorter focal length. A ratio near 1 means that
    the images do not determine the focal length. Infinite if the focal length is fixed or there are too few
    observations."""
    is_planar: bool
    """Whether homographies explain nearly all matches."""
    focal_uncertainty: float
    """Standard deviation of the focal length, divided by the focal length, from bundle adjustment. It assumes
    that the camera model is correct."""
    options: MapperOptions
    """Options of the reconstruction, with the thresholds of the evidence."""

    @property
    def is_strong(self) -> Mask:
        """Whether each pair has enough matches to contradict the cameras. (E,)."""
        return self.num_matches >= self.options.reliability.evidence.min_num_matches

    @property
    def agreement(self) -> Array:
        """Fraction of each pair's matches that agree with the poses; NaN without matches. (E,)."""
        with np.errstate(invalid="ignore"):
            return self.num_agreeing / np.where(self.num_matches > 0, self.num_matches, np.nan)

    @property
    def contradicts(self) -> Mask:
        """Whether each pair contradicts the cameras. (E,).

        A pair contradicts the cameras if it has enough matches, too many of them disagree with the poses, and
        either its images should observe the same points, or many of its matches agree and many disagree, or
        its matches are inliers of a different relative pose. Only the first condition counts if a pattern
        repeats, because images of different parts of the scene then have wrong matches.
        """
        disagrees = self.is_strong & (self.agreement < self.options.reliability.evidence.min_agreement)
        if self.repeats:
            return disagrees & self.overlaps
        return disagrees & (self.overlaps | self.is_divided | self.has_own_pose)

    @property
    def is_divided(self) -> Mask:
        """Whether many matches of each pair agree with the poses and many disagree. (E,)."""
        num_disagreeing = self.num_matches - self.num_agreeing
        needed = self.options.reliability.evidence.min_num_matches
        return np.minimum(self.num_agreeing, num_disagreeing) >= needed

    @property
    def overlaps(self) -> Mask:
        """Whether the images of each pair should observe the same points from similar directions. (E,)."""
        expected = {tuple(sorted(pair)) for pair in self.missing.image_ids.tolist()}
        return np.array([pair in expected for pair in self.pairs], bool)

    @property
    def missing_share(self) -> float:
        """Fraction of image pairs in which most of the expected points are missing.

        A point is expected if it should be visible in both images. Only ordered pairs of registered images
        with enough expected points count.
        """
        missing, options = self.missing, self.options.reliability.evidence
        is_missing = missing.num_missing > options.max_missing * missing.num_expected
        has_enough = missing.num_expected >= options.min_num_expected
        return float(is_missing[has_enough].mean()) if has_enough.any() else 0.0

    @property
    def second_motion_share(self) -> float:
        """Fraction of the pairs with a second epipolar geometry; 0 without pairs.

        Only strong pairs count, which have enough matches to contradict the cameras.
        """
        return float(self.has_second_motion[self.is_strong].mean()) if self.is_strong.any() else 0.0

    @property
    def focal_is_determined(self) -> bool:
        """Whether the images determine the focal length.

        This requires a small uncertainty from bundle adjustment, and noisier observations at other focal
        lengths.
        """
        profile = self.options.reliability.focal_profile
        needed = profile.min_planar_noise_ratio if self.is_planar else profile.min_noise_ratio
        is_certain = self.focal_uncertainty <= self.options.refinement.max_focal_uncertainty / 3
        return is_certain and self.focal_noise_ratio >= needed


@dataclass(frozen=True)
class MissingPoints:
    """Numbers of points that should be visible in other images, for P ordered pairs of registered images."""

    image_ids: Indices
    """Image that observes the points, and image in which their visibility is tested. (P, 2)."""
    num_expected: Indices
    """Number of points of the first image that should be visible in the second image. (P,)."""
    num_found: Indices
    """Number of expected points that are observed in the second image. (P,)."""
    num_missing: Indices
    """Number of expected points in grid cells of the second image in which hardly any expected point is
    observed, so that the cells seem to show something else. (P,)."""


def collect_evidence(
    state: SfmState, problem: SfmProblem, focal_noise_ratio: float, focal_uncertainty: float
) -> Evidence:
    """Collect evidence for and against a finished reconstruction from all verified matches.

    Args:
        state: The refined state; not changed.
        problem: All verified matches of the connected component.
        focal_noise_ratio: `FocalProfile.noise_ratio` of the refined focal length.
        focal_uncertainty: Standard deviation of the focal length, divided by the focal length.

    Returns:
        The evidence.
    """
    options = problem.options.reliability
    counts = count_matches(state, problem)
    return Evidence(
        pairs=tuple((pair.first, pair.second) for pair in problem.pairs),
        num_matches=counts.num_matches,
        num_agreeing=counts.num_agreeing,
        has_own_pose=find_own_poses(state, problem, counts),
        has_second_motion=np.array([pair.num_second > 0 for pair in problem.pairs], bool),
        missing=find_missing_points(state, options.evidence),
        repeats=repeats(problem, options.evidence),
        num_views=count_views(state, problem, options.evidence),
        focal_noise_ratio=focal_noise_ratio,
        is_planar=problem.is_planar,
        focal_uncertainty=focal_uncertainty,
        options=problem.options,
    )


def repeats(problem: SfmProblem, options: EvidenceOptions) -> bool:
    """Decide whether a pattern repeats within most of the matched images.

    Args:
        problem: Matches and images of the connected component.
        options: Minimum fraction of repeated keypoints.
    """
    if problem.images.repetition is None or not problem.pairs:
        return False
    matched = np.unique([(pair.first, pair.second) for pair in problem.pairs])
    return bool(np.median(problem.images.repetition[matched]) >= options.min_repetition)


def count_views(state: SfmState, problem: SfmProblem, options: EvidenceOptions) -> int:
    """Count the different views among the registered images; images without motion between them count once.

    Args:
        state: The refined state.
        problem: All verified matches of the connected component.
        options: Maximum motion between images of the same view.
    """
    same = []
    for pair in problem.pairs:
        first, second = (
            problem.centered_keypoints[image_id][index]
            for image_id, index in zip((pair.first, pair.second), pair.indices.T, strict=True)
        )
        motion = np.median(np.linalg.norm(first - second, axis=1))
        if state.registered[[pair.first, pair.second]].all() and motion < options.max_still_motion:
            same.append((pair.first, pair.second))
    num_images = len(state.registered)
    edges = np.array(same, np.int64).reshape(-1, 2)
    num_components, _ = connected_components(
        coo_array((np.ones(len(edges)), edges.T), (num_images, num_images)), directed=False
    )
    return num_components - int((~state.registered).sum())


def find_missing_points(state: SfmState, options: EvidenceOptions) -> MissingPoints:
    """Test whether the points of each registered image are observed in the other registered images.

    Args:
        state: The refined state.
        options: Conditions under which a point is expected in another image.

    Returns:
        Numbers of points for all ordered pairs of images with enough expected points.
    """
    rows = []
    visibility = _Visibility.of(state, options)
    registered = np.flatnonzero(state.registered).tolist()
    for first in registered:
        points = visibility.points_of(first)
        for second in registered:
            if second != first:
                rows.extend(_look_for(visibility, first, second, points))
    counts = np.array(rows, np.int64).reshape(-1, 5)
    return MissingPoints(counts[:, :2], *counts[:, 2:].T)


def _look_for(visibility: _Visibility, first: int, second: int, points: Indices) -> Iterator[tuple[int, ...]]:
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
    found = visibility.is_observed[points[expected], second]
    if len(found) < options.min_num_common:
        return
    cells = visibility.cells(second, points[expected])
    in_cell, found_in_cell = np.bincount(cells), np.bincount(cells, weights=found)
    is_missing = (in_cell >= options.min_num_in_cell) & (found_in_cell <= options.max_found_in_cell * in_cell)
    yield first, second, len(found), int(found.sum()), int(in_cell[is_missing].sum())


@dataclass(frozen=True)
class _Visibility:
    """Visibility of points: which images observe them, and which other images should."""

    state: SfmState
    options: EvidenceOptions
    is_observed: Mask
    """Whether each track is observed in each image. (T, N)."""
    nearest: Array
    """Smallest depth of the observed points in each of the C grid cells of each image; infinite for empty
    cells. (N, C)."""

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
        """Return the indices of the points that an image observes; of many points, a random sample."""
        points = np.flatnonzero(self.is_observed[:, image_id])
        sample = np.random.default_rng(0).permutation(len(points))[: self.options.max_num_points]
        return np.sort(points[sample])

    def project(self, image_id: int, points: Indices) -> tuple[Array, Array]:
        """Project points into an image.

        Returns:
            Image coordinates relative to the image center, in pixels at keypoint resolution (n, 2), and
            depths (n,).
        """
        state = self.state
        points_camera = transform(state.T_camera_world[image_id], state.points[points])
        camera = state.camera_ids[image_id]
        xy = project(points_camera, state.focal[camera], state.radial[camera], min_depth=1e-9)
        return xy + state.offset[camera], points_camera[:, 2]

    def cells(self, image_id: int, points: Indices) -> Indices:
        """Compute the index of the grid cell of an image into which each point projects. (n,)."""
        size, half_size = self.options.num_grid_cells, self.state.half_size[image_id]
        xy, _ = self.project(image_id, points)
        cells = ((xy + half_size) / (2 * half_size.max()) * size).astype(np.int64).clip(0, size - 1)
        return cells[:, 1] * size + cells[:, 0]

    def expected(self, first: int, second: int, points: Indices) -> Mask:
        """Decide which points of the first image should be observed in the second image.

        A point is expected if it projects into the second image, at a similar scale and from a similar
        direction, and is not occluded.

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
        return expected
