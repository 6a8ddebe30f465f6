"""Evidence for and against the cameras, from existing and from missing matches.

Wrong poses agree with the matches from which they were estimated. Two kinds of evidence reveal wrong poses:
other matches contradict the poses, or points that should be visible in an image are not observed in that
image (Zach et al., "What Can Missing Correspondences Tell Us About 3D Structure and Motion?", 2008; Wilson
and Snavely, "Network Principles for SfM", 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.camera_precision import CameraPrecision
from nope_splat.sfm.reliability.camera_profile import CameraProfile, camera_profile
from nope_splat.sfm.reliability.match_agreement import count_matches, find_conflicting_poses
from nope_splat.sfm.reliability.missing_points import MissingPoints, find_missing_points
from nope_splat.sfm.reliability.options import EvidenceOptions
from nope_splat.sfm.reliability.rolling_shutter import RollingShutter, measure_rolling_shutter
from nope_splat.sfm.state import SfmState
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
    rotation: Array
    """Angle of the rotation between the poses of each pair, in degrees; 0 if an image is not registered.
    (E,)."""
    has_conflicting_pose: Mask
    """Whether each pair disagrees with the poses while nearly all of its matches are inliers of a different
    relative pose. (E,)."""
    has_second_motion: Mask
    """Whether matches of each pair support a second epipolar geometry, such as that of a moving object.
    (E,)."""
    missing: MissingPoints
    """Numbers of points that should be visible in other images, and how many are observed or missing
    there."""
    has_repeated_pattern: bool
    """Whether a pattern repeats within most images."""
    num_views: int
    """Number of distinct viewpoints of the registered images; images with hardly any motion between them
    count once."""
    focal_noise_ratio: float
    """Observation noise after bundle adjustment at a wrong focal length, divided by the noise at the refined
    focal length. A longer and a shorter focal length are tested, and the smaller ratio is kept. A ratio near
    1 means that the images do not determine the focal length. Infinite if the focal length is fixed or there
    are too few observations."""
    is_planar: bool
    """Whether homographies explain nearly all matches, as for a planar scene or pure rotation."""
    camera_profile: CameraProfile
    """Effect of separate intrinsics for each image on the noise."""
    pose_error: float
    """Predicted mean error of the relative poses, in degrees (see `CameraPrecision.pose_error`)."""
    rolling_shutter: RollingShutter
    """Fraction of the residuals that a motion during the readout of the images explains."""
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

        A pair contradicts the cameras if all of these conditions hold:

        - The pair has enough matches (`is_strong`).
        - Too few of its matches agree with the poses (`agreement`).
        - At least one of these is True: `overlaps` (its images should observe the same points), `is_divided`
          (many of its matches agree and many disagree), `has_conflicting_pose` (its matches are inliers of a
          different relative pose).

        If a pattern repeats (`has_repeated_pattern`), `overlaps` must be True, because images of different
        parts of the scene then have wrong matches. If no pattern repeats, pairs with a deviating image
        (`CameraProfile.deviates`) are ignored, provided that the cameras are mixed (`cameras_are_mixed`) and
        fewer than half of the images deviate.
        """
        disagrees = self.is_strong & (self.agreement < self.options.reliability.evidence.min_agreement)
        if self.has_repeated_pattern:
            return disagrees & self.overlaps
        disagrees &= self.overlaps | self.is_divided | self.has_conflicting_pose
        deviates = self.camera_profile.deviates
        if self.cameras_are_mixed and deviates.mean() < 0.5:
            disagrees &= ~deviates[np.array(self.pairs, np.int64).reshape(-1, 2)].any(axis=1)
        return disagrees

    @property
    def is_divided(self) -> Mask:
        """Whether many matches of each pair of similar views agree with the poses and many disagree. (E,).

        Many means at least `EvidenceOptions.min_num_matches` matches. Different views often have many wrong
        matches, for example of the left and the right side of a symmetric object.
        """
        options = self.options.reliability.evidence
        num_disagreeing = self.num_matches - self.num_agreeing
        has_many = np.minimum(self.num_agreeing, num_disagreeing) >= options.min_num_matches
        return has_many & (self.rotation <= options.max_divided_rotation)

    @property
    def overlaps(self) -> Mask:
        """Whether the images of each pair should observe the same points from similar directions. (E,)."""
        expected = {tuple(sorted(pair)) for pair in self.missing.image_ids.tolist()}
        return np.array([pair in expected for pair in self.pairs], bool)

    @property
    def missing_pair_fraction(self) -> float:
        """Fraction of tested image pairs in which most expected points are missing; 0 if no pair is tested.

        Pairs are ordered. The expected points are those points of the first image that should be visible in
        the second image. They are missing where the second image seems to show something else (see
        `MissingPoints`). A pair is tested if it has enough expected points.
        """
        missing, options = self.missing, self.options.reliability.evidence
        is_missing = missing.num_missing > options.max_missing_point_ratio * missing.num_expected
        has_enough = missing.num_expected >= options.min_num_expected
        return float(is_missing[has_enough].mean()) if has_enough.any() else 0.0

    @property
    def second_motion_fraction(self) -> float:
        """Fraction of strong pairs whose matches support a second epipolar geometry; 0 if no pair is strong.

        Strong pairs have enough matches to contradict the cameras (see `is_strong`).
        """
        return float(self.has_second_motion[self.is_strong].mean()) if self.is_strong.any() else 0.0

    @property
    def cameras_are_mixed(self) -> bool:
        """Whether the observations fit much better with separate intrinsics for each image."""
        return self.camera_profile.noise_ratio > self.options.reliability.camera_profile.max_noise_ratio

    @property
    def has_rolling_shutter(self) -> bool:
        """Whether the cameras seem to have moved while the rows of their images were read."""
        options, measured = self.options.reliability.rolling_shutter, self.rolling_shutter
        return (
            measured.along_rows > options.min_explained_fraction
            and measured.along_rows > options.min_direction_ratio * measured.along_columns
        )

    @property
    def focal_is_determined(self) -> bool:
        """Whether the images determine the focal length.

        This requires a small uncertainty from bundle adjustment, and noisier observations at other focal
        lengths.
        """
        needed = self.options.reliability.focal_profile.min_ratio(self.is_planar)
        is_certain = self.focal_uncertainty <= self.options.refinement.max_focal_uncertainty / 3
        return is_certain and self.focal_noise_ratio >= needed


def collect_evidence(state: SfmState, problem: SfmProblem, focal_noise_ratio: float) -> Evidence:
    """Collect evidence for and against a finished reconstruction from all verified matches.

    Args:
        state: The refined state; not changed.
        problem: All verified matches of the connected component.
        focal_noise_ratio: Observation noise at a longer or a shorter focal length, whichever is smaller,
            divided by the noise at the refined focal length (see `FocalProfile.noise_ratio`).

    Returns:
        The evidence.
    """
    options = problem.options.reliability
    counts = count_matches(state, problem)
    precision = CameraPrecision.of(state, problem.options.ba_device)
    return Evidence(
        pairs=tuple((pair.first, pair.second) for pair in problem.pairs),
        num_matches=counts.num_matches,
        num_agreeing=counts.num_agreeing,
        rotation=counts.rotation,
        has_conflicting_pose=find_conflicting_poses(state, problem, counts),
        has_second_motion=np.array([pair.num_second_motion > 0 for pair in problem.pairs], bool),
        missing=find_missing_points(state, problem),
        has_repeated_pattern=has_repeated_pattern(problem, options.evidence),
        num_views=count_views(state, problem, options.evidence),
        focal_noise_ratio=focal_noise_ratio,
        is_planar=problem.is_planar,
        camera_profile=camera_profile(state, options.camera_profile, problem.options.ba_device),
        pose_error=precision.pose_error(options.pose_precision),
        rolling_shutter=measure_rolling_shutter(state, options.rolling_shutter, problem.options.ba_device),
        focal_uncertainty=precision.focal_uncertainty,
        options=problem.options,
    )


def has_repeated_pattern(problem: SfmProblem, options: EvidenceOptions) -> bool:
    """Decide whether a pattern repeats within most of the matched images.

    Args:
        problem: Matches and images of the connected component.
        options: Minimum fraction of an image's keypoints that resemble another place in the same image.
    """
    if problem.images.repetition is None or not problem.pairs:
        return False
    matched = np.unique([(pair.first, pair.second) for pair in problem.pairs])
    return bool(np.median(problem.images.repetition[matched]) >= options.min_repetition)


def count_views(state: SfmState, problem: SfmProblem, options: EvidenceOptions) -> int:
    """Count the distinct viewpoints of the registered images; nearly identical views count once.

    Args:
        state: The refined state.
        problem: All verified matches of the connected component.
        options: Maximum motion between images from the same viewpoint: the median displacement of their
            matches, in pixels at keypoint detection resolution.
    """
    same = []
    for pair in problem.pairs:
        first, second = (
            problem.centered_keypoints[image_id][index]
            for image_id, index in zip((pair.first, pair.second), pair.indices.T, strict=True)
        )
        motion = np.median(np.linalg.norm(first - second, axis=1))
        if state.registered[[pair.first, pair.second]].all() and motion < options.max_same_view_motion:
            same.append((pair.first, pair.second))
    num_images = len(state.registered)
    edges = np.array(same, np.int64).reshape(-1, 2)
    num_components, _ = connected_components(
        coo_array((np.ones(len(edges)), edges.T), (num_images, num_images)), directed=False
    )
    return num_components - int((~state.registered).sum())
