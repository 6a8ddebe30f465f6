"""Options of the evidence for and against a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt, Interval

from nope_splat.utils.ranges import COUNT, POSITIVE, SHARE


@dataclass(frozen=True)
class EvidenceOptions:
    """Options of the comparison of the matches with the cameras."""

    min_num_matches: Annotated[int, COUNT] = 30
    """Minimum number of verified matches with which a pair can contradict the cameras. Pairs with fewer are
    often wrong without harm."""
    min_agreement: Annotated[float, SHARE] = 0.7
    """Share of the matches of a pair that must agree with the cameras. Between neighbors it is above 0.8
    where cameras are right; wrong matches near the epipolar lines make up the rest."""
    min_own_inliers: Annotated[float, SHARE] = 0.85
    """Share of the matches of a pair that a relative pose of its own must explain to contradict the cameras.
    In pairs from very different directions, the fundamental matrix adapts to wrong matches; a pose cannot."""
    min_own_tri_angle: Annotated[float, POSITIVE] = 16.0
    """Minimum median triangulation angle of that pose, in degrees, as for the initial pair in COLMAP: with
    little parallax, a pose fits many wrong matches."""
    min_rotation: Annotated[float, POSITIVE] = 20.0
    """Minimum difference, in degrees, between the rotation of that pose and of the cameras."""
    max_num_points: Annotated[int, COUNT] = 1000
    """Maximum number of points of each photo that are looked for in the others."""
    max_view_angle: Annotated[float, POSITIVE] = 12.0
    """Maximum angle, in degrees, between two views of a point in which the same keypoint is expected."""
    max_scale_ratio: Annotated[float, POSITIVE] = 1.4
    """Maximum ratio of the sizes of a point in two photos in which the same keypoint is expected."""
    border: Annotated[float, SHARE] = 0.03
    """Width of the border of a photo, as a share of its longer side, where keypoints are not expected."""
    num_grid_cells: Annotated[int, COUNT] = 12
    """Grid cells along the longer side of a photo, in which expected and found points are compared."""
    max_occluder_depth_ratio: Annotated[float, SHARE] = 0.9
    """Depth of other points of a cell, relative to a point's own depth, below which they may hide it."""
    min_num_in_cell: Annotated[int, COUNT] = 4
    """Minimum number of expected points in a cell."""
    max_found_in_cell: Annotated[float, SHARE] = 0.1
    """Share of the expected points of a cell that are found, up to which the cell shows something else."""
    min_num_common: Annotated[int, COUNT] = 10
    """Minimum number of expected points of two photos that overlap."""
    min_num_expected: Annotated[int, COUNT] = 30
    """Minimum number of expected points from which missing ones count."""
    max_missing: Annotated[float, SHARE] = 0.5
    """Share of the expected points of a pair that may lie in cells that show something else."""
    max_missing_pairs: Annotated[float, SHARE] = 0.2
    """Share of the pairs in which more than that may be missing: things hide each other."""
    max_still_motion: Annotated[float, POSITIVE] = 1.0
    """Median motion of the matches, in feature pixels, up to which two photos show the same view."""
    min_repetition: Annotated[float, SHARE] = 0.1
    """Share of the keypoints of the median photo that must have a lookalike in the same photo, for a pattern
    that repeats to be the likely cause."""
    min_second_motions: Annotated[float, SHARE] = 0.2
    """Share of the strong pairs with a second motion from which things move against each other."""


@dataclass(frozen=True)
class FocalProfileOptions:
    """Options of the profile of the focal length."""

    factor: Annotated[float, Gt(1)] = 1.3
    """Poses and points are adjusted again with the focal length multiplied and divided by this factor."""
    min_noise_ratio: Annotated[float, Gt(1)] = 1.01
    """Minimum increase of the noise of the observations at either focal length for which the photos
    determine it. Errors of the model, such as distortion, have this size."""
    min_planar_noise_ratio: Annotated[float, Gt(1)] = 1.05
    """The same for a planar scene, where a small error of the model moves the focal length far."""
    min_noise_decrease: Annotated[float, SHARE] = 0.001
    """Minimum decrease of the noise, as a share, for which the reconstruction is refined again from a longer
    or shorter focal length."""
    max_num_steps: Annotated[int, COUNT] = 8
    """Maximum number of such refinements."""
    plausible_ratios: tuple[float, float] = (0.3, 8.0)
    """Shortest and longest focal length of ordinary lenses, as a share of the longer side."""
    max_num_observations: Annotated[int, COUNT] = 60
    """Maximum number of observations per photo that are used, on average."""
    max_iterations: Annotated[int, COUNT] = 12
    """Maximum number of steps of each adjustment."""


@dataclass(frozen=True)
class ReliabilityOptions:
    """When to doubt a reconstruction."""

    evidence: EvidenceOptions = field(default_factory=EvidenceOptions)
    """Comparison of the matches with the cameras."""
    focal_profile: FocalProfileOptions = field(default_factory=FocalProfileOptions)
    """Profile of the focal length."""
    min_registered: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Share of the photos that must be registered for good support."""
    min_observations_per_image: Annotated[int, COUNT] = 50
    """Observations per registered photo for good support."""
