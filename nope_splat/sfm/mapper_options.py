"""Options shared by all initialization and registration methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval
from tyro.conf import Suppress

from nope_splat.sfm.reliability.options import ReliabilityOptions
from nope_splat.utils.ranges import COUNT, POSITIVE, POSITIVE_SHARE, SHARE


@dataclass(frozen=True)
class IntrinsicsPriorOptions:
    """Standard deviations of the Gaussian priors on the intrinsics in bundle adjustment."""

    log_focal_sigma: Annotated[float, POSITIVE] = 0.5
    """Standard deviation of the natural logarithm of a focal length; only an upper limit if the focal length
    is estimated from pointmaps. The prior keeps the focal length near its initial value if the photos do not
    determine it, and is too weak to matter otherwise."""
    exif_log_focal_sigma: Annotated[float, POSITIVE] = 0.1
    """Standard deviation of the natural logarithm of a focal length from EXIF data. It allows for rounding to
    whole millimeters, cropping in the camera, and focusing."""
    principal_point_sigma_ratio: Annotated[float, POSITIVE] = 0.02
    """Standard deviation of the principal point from the photo center, as a fraction of the longer side of
    the photo. Lenses are centered to within about one percent of the sensor size; two percent allows for
    image stabilization."""
    corner_distortion_sigma: Annotated[float, POSITIVE] = 0.05
    """Standard deviation of the distance by which each of the two radial distortion terms displaces a corner
    of a photo, as a fraction of the distance between corner and center. Typical cameras and phones displace
    the corners by a few percent."""
    fisheye_distortion_sigma: Annotated[float, POSITIVE] = 0.2
    """The same standard deviation for fisheye lenses, whose projection is often far from equidistant."""
    tangential_distortion_sigma: Annotated[float, POSITIVE] = 0.01
    """Standard deviation of the distance by which each of the two tangential distortion terms displaces a
    corner of a photo, as a fraction of the distance between corner and center. Lenses are assembled with
    little tilt."""


@dataclass(frozen=True)
class FocalEstimationOptions:
    """Estimation of focal lengths from verified matches or from pointmaps."""

    min_focal_length_ratio: Annotated[float, POSITIVE] = 0.3
    """Shortest plausible focal length, as a fraction of the longer side of the photo; shorter estimates are
    discarded."""
    max_focal_length_ratio: Annotated[float, POSITIVE] = 4.0
    """Longest plausible focal length, as a multiple of the longer side of the photo; longer estimates are
    discarded."""
    prior_field_of_view: Annotated[float, Interval(gt=0, lt=180)] = 60.0
    """Field of view across the longer side of the photo, in degrees, to assume if the focal length cannot be
    estimated."""
    max_num_pairs: Annotated[int, COUNT] = 500
    """Maximum number of pairs from which the focal length is estimated; the pairs with the most matches are
    used."""
    max_quartile_ratio: Annotated[float, Gt(1)] = 1.5
    """Maximum ratio of the upper to the lower quartile of the focal lengths estimated from single pairs. With
    a larger ratio, the pairs are inconsistent, and several initial focal lengths are tried."""
    min_num_agreeing_pairs: Annotated[int, COUNT] = 3
    """Minimum number of pairs that give a focal length within the plausible range (`min_focal_length_ratio`
    to `max_focal_length_ratio`); with fewer pairs, several initial focal lengths are tried."""
    max_exif_ratio: Annotated[float, Gt(1)] = 1.25
    """Maximum ratio between the focal length of the EXIF data and the estimate from pairs with other cameras.
    With a larger ratio, the EXIF data of a camera are neither used to start nor as a prior."""
    num_candidates: Annotated[int, Ge(3)] = 200
    """Number of focal lengths tried for a camera whose focal length is estimated from pairs with other
    cameras; bundle adjustment refines the best one. 200 candidates are spaced by 1.3 percent."""
    start_factors: tuple[float, ...] = (1.0, 1.4, 2.0)
    """If pairs are inconsistent, the estimated focal length is multiplied by each of these factors to get
    several initial values. Bundle adjustment corrects initial values that are too long, but not values that
    are too short."""
    min_log_focal_sigma: Annotated[float, POSITIVE] = 0.05
    """Minimum standard deviation of the natural logarithm of a focal length estimated from pointmaps.
    Networks make similar errors in all photos of a scene, so the scatter between pairs underestimates the
    error."""


@dataclass(frozen=True)
class DegeneracyOptions:
    """Detection of planar scenes and of pure camera rotation."""

    min_inlier_ratio: Annotated[float, POSITIVE_SHARE] = 0.9
    """A scene counts as planar if at least this fraction of the matches are inliers of homographies. The
    camera motion counts as pure rotation if, in addition, at least this fraction are inliers of rotations. In
    scenes with depth, homographies explain at most 0.8 of the matches, even if one wall dominates."""
    max_error: Annotated[float, POSITIVE] = 4.0
    """Maximum transfer error of an inlier match of a rotation, in pixels of the image in which keypoints are
    detected; the same value as for homographies in geometric verification."""
    max_num_pairs: Annotated[int, COUNT] = 50
    """Maximum number of pairs tested for pure rotation; the pairs with the most matches are tested."""
    max_num_matches: Annotated[int, COUNT] = 200
    """Maximum number of matches per tested pair; if a pair has more, a random sample is used."""
    num_focal_candidates: Annotated[int, Ge(3)] = 32
    """Number of focal lengths tried in the coarse search for pure rotation, and again in the fine search."""
    num_reweighting_steps: Annotated[int, COUNT] = 10
    """Number of iteratively reweighted least-squares fits of each rotation."""


@dataclass(frozen=True)
class TwoViewPoseOptions:
    """Estimation of the relative poses of verified pairs."""

    max_epipolar_error: Annotated[float, POSITIVE] = 2.0
    """Maximum epipolar error of an inlier match, in pixels of the image in which keypoints are detected."""
    min_num_inliers: Annotated[int, Ge(5)] = 15
    """Minimum number of inlier matches of a relative pose; pairs with fewer inliers are not used for
    registration."""


@dataclass(frozen=True)
class GlobalRefinementOptions:
    """Final refinement of all poses, points and intrinsics."""

    filter_max_reproj_errors: tuple[float, ...] = (8.0, 4.0, 2.5)
    """Maximum reprojection error of an observation in each round of refinement, in pixels of the image in
    which keypoints are detected; observations with a larger error are removed."""
    ba_tolerance: Annotated[float, POSITIVE] = 1e-3
    """Bundle adjustment stops when a step reduces the cost by less than this fraction of the cost. The last
    bundle adjustment uses a smaller fraction."""
    max_prior_sigmas: Annotated[float, POSITIVE] = 3.0
    """Maximum deviation of a refined principal point or distortion from the mean of its prior, in standard
    deviations of the prior. With a larger deviation, it is not refined, because it probably absorbs other
    errors."""
    max_uncertainty_ratio: Annotated[float, POSITIVE] = 0.25
    """Maximum standard deviation of a refined principal point or distortion, as a fraction of the standard
    deviation of its prior. With a larger fraction, it is not refined, because the photos do not determine
    it."""
    max_lens_term_probability: Annotated[float, SHARE] = 1e-4
    """Distortion terms are significant if the probability that the observations deviate as much without these
    terms is below this value. Tangential terms are refined only if they are significant, and radial terms,
    too, if `refine_extra_params` is None."""
    min_fisheye_distortion: Annotated[float, POSITIVE_SHARE] = 0.05
    """A fisheye lens is tried for cameras whose radial distortion displaces the corners of a photo by more
    than this fraction of the distance between corner and center."""
    min_same_lens_probability: Annotated[float, SHARE] = 0.01
    """Cameras whose photos have the same size share a lens and differ only by a digital zoom, unless the
    difference of their distortion and principal points would be less probable than this."""
    min_num_observations: Annotated[int, COUNT] = 10
    """Minimum number of observations in a registered photo; photos with fewer observations are
    unregistered."""
    max_known_camera_noise_ratio: Annotated[float, Ge(1)] = 1.25
    """Maximum ratio of the observation noise with known cameras to the noise with refined cameras. With a
    smaller ratio, the known cameras are kept unchanged; otherwise the refined cameras are used."""
    max_focal_uncertainty: Annotated[float, POSITIVE] = 0.1
    """Maximum uncertainty of the focal length: three standard deviations, divided by the focal length. Beyond
    this limit, there is a warning that the photos do not determine the focal length. If, in addition, the
    scene is planar or `initial_focal` is set, the cameras are computed again with a fixed focal length."""
    min_distortion: Annotated[float, POSITIVE] = 0.1
    """If radial distortion displaces all pixels by less than this distance, in pixels of the image in which
    keypoints are detected, the distortion is set to zero, because many tools do not support distortion."""


@dataclass(frozen=True)
class KnownCamerasOptions:
    """Comparison of known cameras with verified matches, before the cameras are used."""

    min_num_matches: Annotated[int, COUNT] = 30
    """Minimum number of matches of a pair of photos; pairs with fewer matches are not compared with the known
    cameras."""
    max_num_matches: Annotated[int, COUNT] = 200
    """Maximum number of matches per pair that are compared with the known cameras; if a pair has more, only
    every n-th match is used."""
    max_error: Annotated[float, POSITIVE] = 2.0
    """A match agrees with two known cameras if its Sampson error is at most this value, in pixels of the
    image in which keypoints are detected, or `max_error_ratio` times the longer side of the photo, whichever
    is larger."""
    max_error_ratio: Annotated[float, POSITIVE] = 0.005
    """A match agrees with two known cameras if its Sampson error is at most this fraction of the longer side
    of the photo, or `max_error` pixels, whichever is larger."""
    min_agreement: Annotated[float, POSITIVE_SHARE] = 0.6
    """Two known cameras are exact if at least this fraction of the matches between their photos agrees with
    them and `min_relative_agreement` is also met."""
    min_relative_agreement: Annotated[float, POSITIVE_SHARE] = 0.9
    """Two known cameras are exact only if the number of matches that agree with them is at least this
    fraction of the number of matches that agree with a relative pose estimated from the matches."""
    max_num_trials: Annotated[int, COUNT] = 500
    """Maximum number of RANSAC iterations to estimate the relative pose of two photos from their matches."""
    max_rotation_error: Annotated[float, POSITIVE] = 7.0
    """Two known cameras that are not exact still agree with the matches if their relative rotation differs by
    at most this angle, in degrees, from the relative rotation estimated from the matches, and
    `max_translation_error` is met. Bundle adjustment refines such rough cameras."""
    max_translation_error: Annotated[float, POSITIVE] = 0.05
    """Maximum error of the relative translation of two rough known cameras: distance from the translation
    that is estimated from the matches and scaled to the same length. The value is a fraction of the extent of
    all known cameras, which is twice the largest distance of a camera from the mean camera center."""
    min_weight: Annotated[float, POSITIVE_SHARE] = 0.1
    """Minimum weight of a pair of photos. The weight is the cosine of the angle of the rotation between the
    two known cameras, because matches between photos with different viewing directions are often wrong."""
    min_agreeing_pair_ratio: Annotated[float, POSITIVE_SHARE] = 0.5
    """A known camera is consistent if it agrees with the matches in at least this fraction of the pairs with
    other consistent cameras. A mistake in the file of known cameras is reported only if more than this
    fraction of all pairs agrees after the mistake is corrected. Pairs are weighted (see `min_weight`)."""
    min_consistent_camera_ratio: Annotated[float, POSITIVE_SHARE] = 0.5
    """If less than this fraction of the compared known cameras is consistent (see `min_agreeing_pair_ratio`),
    no known camera is used, unless a pattern repeats in the photos and may cause wrong matches."""
    max_num_pairs: Annotated[int, COUNT] = 60
    """Maximum number of photo pairs with which common mistakes in the file of known cameras are tested; the
    pairs with the most matches are used."""
    min_num_agreeing_pairs: Annotated[int, COUNT] = 3
    """A mistake in the file of known cameras is reported only if at least this number of pairs agrees with
    the corrected cameras; fewer pairs can agree by chance."""
    early_stop_pair_ratio: Annotated[float, POSITIVE_SHARE] = 0.9
    """A mistake in the file of known cameras is reported without testing other mistakes if at least this
    fraction, by weight, of the pairs agrees with the corrected cameras."""
    max_focal_factor: Annotated[float, Gt(1)] = 4.0
    """If known cameras contradict the matches, other focal lengths are tested: from the known focal length
    divided by this factor to the known focal length multiplied by this factor."""
    num_focal_factors: Annotated[int, Ge(3)] = 31
    """Number of focal lengths tested in the range given by `max_focal_factor`, spaced geometrically."""
    min_lens_gain: Annotated[float, Ge(1)] = 1.1
    """When other focal lengths are tested, the known principal point and distortion are ignored if this
    increases the fraction of agreeing matches by more than this factor."""


@dataclass(frozen=True)
class MapperOptions:
    """Options of triangulation and bundle adjustment, named as in COLMAP."""

    min_tri_angle: Annotated[float, Interval(gt=0, le=90)] = 1.5
    """Minimum triangulation angle of a point, in degrees; points with a smaller angle are removed."""
    refine_principal_point: bool = True
    """Whether to refine the principal point of each camera. It is refined only for cameras whose photos
    determine it. It rotates with photos that were rotated upright."""
    refine_extra_params: bool | None = True
    """Whether to refine the distortion of each camera whose photos determine it, with the simplest lens model
    that explains the matches. None: refine it only if it differs significantly from zero."""
    ba_device: Literal["cpu", "cuda"] = "cpu"
    """Device for bundle adjustment; a GPU is faster only for hundreds of photos."""
    re_max_epipolar_error: Suppress[Annotated[float, POSITIVE]] = 4.0
    """Maximum Sampson error of a match and maximum reprojection error of an observation in retriangulation,
    in pixels of the image in which keypoints are detected. It is larger than in matching, because the poses
    are not final yet."""
    coarse_max_reproj_error_ratios: Suppress[tuple[float, ...]] = (0.05, 0.01)
    """Maximum reprojection error of an observation in each of the first bundle adjustments after
    initialization by depth maps, pointmaps or known cameras, as a fraction of the longer side of the photos.
    The large values allow for an initial focal length that is off by about 10 %."""
    intrinsics_prior: Suppress[IntrinsicsPriorOptions] = field(default_factory=IntrinsicsPriorOptions)
    """Priors on the intrinsics in bundle adjustment."""
    focal: Suppress[FocalEstimationOptions] = field(default_factory=FocalEstimationOptions)
    """Estimation of focal lengths from verified matches or from pointmaps."""
    degeneracy: Suppress[DegeneracyOptions] = field(default_factory=DegeneracyOptions)
    """Detection of planar scenes and of pure camera rotation."""
    two_view: Suppress[TwoViewPoseOptions] = field(default_factory=TwoViewPoseOptions)
    """Estimation of the relative poses of verified pairs."""
    known_cameras: Suppress[KnownCamerasOptions] = field(default_factory=KnownCamerasOptions)
    """Comparison of known cameras with verified matches, before the cameras are used."""
    refinement: Suppress[GlobalRefinementOptions] = field(default_factory=GlobalRefinementOptions)
    """Final refinement of all poses, points and intrinsics."""
    reliability: Suppress[ReliabilityOptions] = field(default_factory=ReliabilityOptions)
    """Thresholds beyond which a reconstruction counts as doubtful."""
