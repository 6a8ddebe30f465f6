"""Options that all initializations and registrations share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval
from tyro.conf import Suppress

from nope_splat.sfm.reliability.options import ReliabilityOptions
from nope_splat.utils.ranges import COUNT, POSITIVE, POSITIVE_SHARE


@dataclass(frozen=True)
class IntrinsicsPriorOptions:
    """Standard deviations of the Gaussian priors on the intrinsics in bundle adjustment."""

    log_focal_sigma: Annotated[float, POSITIVE] = 0.5
    """Standard deviation of the logarithm of a focal length without an estimate. It is far too weak to matter
    where the photos determine the focal length, and keeps it near its start where they do not."""
    principal_point_sigma_ratio: Annotated[float, POSITIVE] = 0.02
    """Standard deviation of the principal point offset, as a share of the longer side. Lenses are centered to
    about one percent of the sensor; twice that leaves room for stabilized lenses."""
    corner_distortion_sigma: Annotated[float, POSITIVE] = 0.05
    """Standard deviation of the displacement of a photo's corner by each radial term, as a share of the
    corner's distance from the center. Lenses of cameras and phones bend the corners by some percent."""


@dataclass(frozen=True)
class FocalEstimationOptions:
    """Estimation of focal lengths from matched pairs or pointmaps."""

    min_focal_length_ratio: Annotated[float, POSITIVE] = 0.3
    """Shortest plausible focal length, as a share of the longer side."""
    max_focal_length_ratio: Annotated[float, POSITIVE] = 4.0
    """Longest plausible focal length, as a share of the longer side."""
    prior_field_of_view: Annotated[float, Interval(gt=0, lt=180)] = 60.0
    """Field of view across the longer side, in degrees, that is assumed without an estimate."""
    max_num_pairs: Annotated[int, COUNT] = 500
    """Maximum number of pairs used, those with the most matches."""
    max_quartile_ratio: Annotated[float, Gt(1)] = 1.5
    """Ratio of the upper to the lower quartile of the pairs' focal lengths below which the pairs agree."""
    min_num_agreeing_pairs: Annotated[int, COUNT] = 3
    """Minimum number of pairs with a plausible focal length that can agree."""
    num_candidates: Annotated[int, Ge(3)] = 200
    """Focal lengths tried for a camera that is paired with known cameras only, 1.3 percent apart; bundle
    adjustment refines the best one."""
    start_factors: tuple[float, ...] = (1.0, 1.4, 2.0)
    """Multiples of the estimate to start from where the pairs do not agree. Bundle adjustment corrects a
    start that is too long, but not one that is too short."""
    min_log_focal_sigma: Annotated[float, POSITIVE] = 0.05
    """Minimum standard deviation of the logarithm of a focal length from pointmaps. A network makes the same
    error in all photos of a scene, which their scatter does not show."""


@dataclass(frozen=True)
class DegeneracyOptions:
    """Detection of planar scenes and of cameras that only rotate."""

    min_inlier_ratio: Annotated[float, POSITIVE_SHARE] = 0.9
    """Minimum share of the matches that homographies, or rotations, must explain. Homographies explain at
    most 0.8 of the matches of a scene with depth, even if one wall takes up most of it."""
    max_error: Annotated[float, POSITIVE] = 4.0
    """Maximum error of a match that a rotation explains, feature pixels; the same as for homographies in
    geometric verification."""
    max_num_pairs: Annotated[int, COUNT] = 50
    """Maximum number of pairs to test; pairs with most matches are tested first."""
    max_num_matches: Annotated[int, COUNT] = 200
    """Maximum number of matches tested in each pair."""
    num_focal_candidates: Annotated[int, Ge(3)] = 32
    """Focal lengths tried before the best one is refined."""
    num_reweighting_steps: Annotated[int, COUNT] = 10
    """Reweighted least-squares fits of each rotation."""


@dataclass(frozen=True)
class TwoViewPoseOptions:
    """Options for estimating relative poses of matched pairs."""

    max_epipolar_error: Annotated[float, POSITIVE] = 2.0
    """Maximum epipolar error of an inlier match, feature pixels."""
    min_num_inliers: Annotated[int, Ge(5)] = 15
    """Minimum number of inlier matches of a relative pose."""


@dataclass(frozen=True)
class GlobalRefinementOptions:
    """Final refinement of all poses, points and intrinsics."""

    filter_max_reproj_errors: tuple[float, ...] = (8.0, 4.0, 2.5)
    """Maximum reprojection error of an observation in each round, feature pixels."""
    ba_tolerance: Annotated[float, POSITIVE] = 1e-3
    """Relative decrease of the cost at which every bundle adjustment but the last stops."""
    max_prior_sigmas: Annotated[float, POSITIVE] = 3.0
    """Intrinsics that are farther from the mean of their prior, in standard deviations, are not refined: they
    would absorb other errors."""
    max_uncertainty_ratio: Annotated[float, POSITIVE] = 0.25
    """Maximum standard deviation of refined intrinsics, as a share of their prior's, at which the photos
    determine them."""
    min_distortion_gain: Annotated[float, Ge(1)] = 1.25
    """Minimum ratio of the observation noise without distortion to that with it, if `refine_extra_params` is
    None. Photos with less distortion are compared with best as they are."""
    min_num_observations: Annotated[int, COUNT] = 10
    """Minimum number of observations of a registered photo."""
    max_known_camera_noise_ratio: Annotated[float, Ge(1)] = 1.25
    """Maximum ratio of the observation noise with known cameras to that with refined ones at which the known
    cameras are kept."""
    max_focal_uncertainty: Annotated[float, POSITIVE] = 0.1
    """Three standard deviations of a focal length that the photos determine, as a share of it."""
    min_distortion: Annotated[float, POSITIVE] = 0.1
    """Distortion that moves every pixel by less than this, in feature pixels, is set to zero, because many
    tools do not support distortion."""


@dataclass(frozen=True)
class KnownCamerasOptions:
    """Comparison of known cameras with verified matches, before they are used."""

    min_num_matches: Annotated[int, COUNT] = 30
    """Minimum number of matches with which a pair of photos can contradict the cameras."""
    max_num_matches: Annotated[int, COUNT] = 200
    """Maximum number of matches of a pair that are compared with the cameras."""
    max_error: Annotated[float, POSITIVE] = 2.0
    """Maximum error of a match that agrees with two cameras, feature pixels."""
    max_error_ratio: Annotated[float, POSITIVE] = 0.005
    """The same as a share of the longer side; the larger value counts."""
    min_agreement: Annotated[float, POSITIVE_SHARE] = 0.6
    """Minimum share of the matches of a pair that must agree with two cameras that are exact."""
    min_relative_agreement: Annotated[float, POSITIVE_SHARE] = 0.9
    """The same as a share of the matches that an estimated relative pose explains."""
    max_num_trials: Annotated[int, COUNT] = 500
    """Maximum number of RANSAC iterations of that pose."""
    max_rotation: Annotated[float, POSITIVE] = 7.0
    """Maximum difference, in degrees, between the relative rotation of two rough cameras and the estimated
    one; bundle adjustment corrects rough cameras."""
    max_translation: Annotated[float, POSITIVE] = 0.05
    """Maximum difference between the translation of two rough cameras and the estimated one, as a share of
    the extent of all cameras."""
    min_weight: Annotated[float, POSITIVE_SHARE] = 0.1
    """Minimum weight of a pair. The weight is the cosine of the angle between the two cameras, because photos
    from different directions often match by mistake."""
    min_consistency: Annotated[float, POSITIVE_SHARE] = 0.5
    """Minimum share, by weight, of the pairs of a photo that must agree with its camera."""
    min_consistent: Annotated[float, POSITIVE_SHARE] = 0.5
    """Minimum share of the known cameras that must be consistent; otherwise, none of them is used."""
    max_num_pairs: Annotated[int, COUNT] = 60
    """Maximum number of pairs with which common mistakes are tried, those with the most matches."""
    min_num_agreeing_pairs: Annotated[int, COUNT] = 3
    """Minimum number of pairs that must agree without a mistake; fewer can agree by chance."""
    min_explained: Annotated[float, POSITIVE_SHARE] = 0.9
    """Share of the pairs, by weight, from which a mistake explains the matches; no other is tried then."""
    max_focal_factor: Annotated[float, Gt(1)] = 4.0
    """Maximum factor by which a focal length is tried to be too short or too long."""
    num_focal_factors: Annotated[int, Ge(3)] = 31
    """Number of factors that are tried, at equal ratios."""
    min_lens_gain: Annotated[float, Ge(1)] = 1.1
    """Minimum ratio of the matches that agree without the known principal point and distortion to those that
    agree with them, for the known ones to be wrong."""


@dataclass(frozen=True)
class MapperOptions:
    """Triangulation and bundle adjustment, with COLMAP's names."""

    min_tri_angle: Annotated[float, Interval(gt=0, le=90)] = 1.5
    """Minimum angle, in degrees, between the rays of a track point."""
    refine_principal_point: bool = True
    """Whether to refine the principal point, if all photos of a camera have the same orientation."""
    refine_extra_params: bool | None = True
    """Whether to refine radial distortion if the photos determine it; None refines it only if observations
    would be noisier by a quarter without it."""
    ba_device: Literal["cpu", "cuda"] = "cpu"
    """Device of bundle adjustment; a GPU is faster for hundreds of photos only."""
    re_max_epipolar_error: Suppress[Annotated[float, POSITIVE]] = 4.0
    """Maximum Sampson error of a match in retriangulation, feature pixels; poses are not final yet."""
    coarse_max_reproj_error_ratios: Suppress[tuple[float, ...]] = (0.05, 0.01)
    """Maximum reprojection errors in the first bundle adjustments of rough cameras, as shares of the longer
    side; they allow for a focal length that is wrong by a tenth."""
    intrinsics_prior: Suppress[IntrinsicsPriorOptions] = field(default_factory=IntrinsicsPriorOptions)
    """Priors on the intrinsics."""
    focal: Suppress[FocalEstimationOptions] = field(default_factory=FocalEstimationOptions)
    """Estimation of focal lengths."""
    degeneracy: Suppress[DegeneracyOptions] = field(default_factory=DegeneracyOptions)
    """Detection of planar scenes and of cameras that only rotate."""
    two_view: Suppress[TwoViewPoseOptions] = field(default_factory=TwoViewPoseOptions)
    """Options for estimating relative poses of matched pairs."""
    known_cameras: Suppress[KnownCamerasOptions] = field(default_factory=KnownCamerasOptions)
    """Comparison of known cameras with verified matches, before they are used."""
    refinement: Suppress[GlobalRefinementOptions] = field(default_factory=GlobalRefinementOptions)
    """Final refinement of all poses, points and intrinsics."""
    reliability: Suppress[ReliabilityOptions] = field(default_factory=ReliabilityOptions)
    """When to doubt the result."""
