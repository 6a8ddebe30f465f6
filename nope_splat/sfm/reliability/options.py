"""Options for assessing the reliability of a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt, Interval

from nope_splat.utils.ranges import COUNT, POSITIVE, SHARE


@dataclass(frozen=True)
class EvidenceOptions:
    """Options for comparing a reconstruction with all verified matches."""

    min_num_matches: Annotated[int, COUNT] = 30
    """Minimum number of verified matches with which a pair can contradict the cameras. Pairs with fewer
    matches are ignored: they are often wrong, but hardly affect the cameras."""
    min_agreement: Annotated[float, SHARE] = 0.7
    """Minimum fraction of the matches of a pair that agree with the cameras; pairs with a smaller fraction
    may contradict the cameras. With correct cameras, neighboring photos reach more than 0.8; the other
    matches are wrong matches that passed geometric verification."""
    min_conflicting_inlier_ratio: Annotated[float, SHARE] = 0.85
    """A pair with too little agreement contradicts the cameras if at least this fraction of its matches are
    inliers of a relative pose that differs from the relative pose of the two cameras. Wrong matches between
    very different views may fit a fundamental matrix, but hardly a relative pose."""
    min_conflicting_tri_angle: Annotated[float, POSITIVE] = 16.0
    """Minimum median triangulation angle, in degrees, of a relative pose that contradicts the cameras. With
    less parallax, a relative pose fits many wrong matches. COLMAP requires the same angle for its initial
    pair."""
    min_conflicting_rotation: Annotated[float, POSITIVE] = 20.0
    """The relative pose estimated from the matches of a pair contradicts the cameras only if its rotation
    differs from the rotation between the two cameras by at least this angle, in degrees."""
    max_divided_rotation: Annotated[float, POSITIVE] = 15.0
    """If many matches of a pair agree and many disagree with the cameras, this counts against the cameras
    only if the rotation between the two photos is at most this angle, in degrees."""
    max_num_points: Annotated[int, COUNT] = 1000
    """Maximum number of points per photo whose visibility in the other photos is tested."""
    max_view_angle: Annotated[float, POSITIVE] = 12.0
    """A point of one photo is expected in another photo only if the directions from the two cameras to the
    point differ by less than this angle, in degrees."""
    max_scale_ratio: Annotated[float, POSITIVE] = 1.4
    """A point of one photo is expected in another photo only if its image scales (focal length divided by
    depth) in the two photos differ by less than this factor."""
    margin_ratio: Annotated[float, SHARE] = 0.03
    """Width of the margin along each side of a photo in which no points are expected, as a fraction of the
    longer image side."""
    num_grid_cells: Annotated[int, COUNT] = 12
    """Number of grid cells along the longer side of a photo; expected and observed points are counted in each
    cell."""
    max_occluder_depth_ratio: Annotated[float, SHARE] = 0.9
    """A point is considered occluded in a photo if another point in the same grid cell has less than this
    fraction of the depth of the occluded point."""
    min_num_points_in_cell: Annotated[int, COUNT] = 4
    """The expected points of a grid cell can count as missing only if the cell contains at least this number
    of expected points and, if few points are observed in other cells (see `min_recall`), at least the same
    number of keypoints."""
    max_observed_ratio_in_cell: Annotated[float, SHARE] = 0.1
    """The expected points of a grid cell count as missing if at most this fraction of them is observed: the
    cell then seems to show something else."""
    min_recall: Annotated[float, SHARE] = 0.35
    """Expected points in grid cells with few keypoints count as missing only if, in the cells without missing
    points, at least this fraction of the expected points is observed. With a smaller fraction, the photo may
    be dark, overexposed or blurred."""
    min_num_overlap_points: Annotated[int, COUNT] = 10
    """Two photos count as overlapping if at least this number of points of one photo is expected in the other
    photo."""
    min_num_expected: Annotated[int, COUNT] = 30
    """A pair is tested for missing points if at least this number of points of one photo is expected in the
    other photo."""
    max_missing_point_ratio: Annotated[float, SHARE] = 0.5
    """Too many points of a pair are missing (see `max_missing_pair_ratio`) if more than this fraction of the
    expected points is missing."""
    max_missing_pair_ratio: Annotated[float, SHARE] = 0.2
    """Maximum fraction of pairs in which too many points are missing (see `max_missing_point_ratio`). With a
    larger fraction, the cameras are doubtful. A few such pairs are normal because of occlusion."""
    max_contradicting_pair_ratio: Annotated[float, SHARE] = 0.5
    """If more than this fraction of the pairs contradict the cameras, moving objects are reported as the
    cause. If fewer pairs contradict the cameras, similar objects that may have been merged are reported as
    the cause. Only pairs with at least `min_num_matches` matches count."""
    max_same_view_motion: Annotated[float, POSITIVE] = 1.0
    """Two photos count as taken from the same viewpoint if the median displacement of their matches is less
    than this value, in pixels of the image in which keypoints are detected."""
    min_repetition: Annotated[float, SHARE] = 0.1
    """A repeated pattern is reported as the cause of contradictions if, in the median photo, at least this
    fraction of the keypoints resembles another place in the same photo."""
    min_planar_second_motion_ratio: Annotated[float, SHARE] = 0.05
    """Value of `min_second_motion_ratio` for planar scenes, if nothing else contradicts the cameras. It is
    smaller because a moving plane that fills the photos leaves few matches on the rest of the scene."""
    min_second_motion_ratio: Annotated[float, SHARE] = 0.2
    """Moving objects are reported if, among the pairs with at least `min_num_matches` matches, at least this
    fraction has a second epipolar geometry."""


@dataclass(frozen=True)
class FocalProfileOptions:
    """Test of whether the photos determine the focal length, by bundle adjustment at other focal lengths."""

    focal_factor: Annotated[float, Gt(1)] = 1.3
    """In the test, the focal length is once multiplied and once divided by this factor, and poses and points
    are bundle-adjusted at the new focal length."""
    min_noise_ratio: Annotated[float, Gt(1)] = 1.01
    """Minimum ratio of the observation noise at a longer or shorter focal length (see `focal_factor`) to the
    noise at the refined focal length. With a smaller ratio, the focal length is reported as uncertain.
    Unmodeled effects, such as distortion, cause ratios of this size."""
    min_planar_noise_ratio: Annotated[float, Gt(1)] = 1.05
    """Value of `min_noise_ratio` for planar scenes, in which small errors of the camera model change the
    focal length more."""
    min_noise_decrease: Annotated[float, SHARE] = 0.001
    """If a longer or shorter focal length decreases the observation noise by at least this fraction, all
    cameras are refined again from that focal length."""
    max_num_steps: Annotated[int, COUNT] = 8
    """Maximum number of times that all cameras are refined again from a longer or shorter focal length (see
    `min_noise_decrease`)."""
    plausible_focal_ratios: tuple[float, float] = (0.3, 8.0)
    """Shortest and longest focal length of ordinary lenses, as multiples of the longer image side; other
    focal lengths are reported as implausible."""
    max_num_observations: Annotated[int, COUNT] = 60
    """Maximum average number of observations per photo that are used in the test of other focal lengths; the
    observations of the longest tracks are used."""
    max_iterations: Annotated[int, COUNT] = 12
    """Maximum number of steps of each bundle adjustment in the test of other focal lengths."""
    coarse_tolerance: Annotated[float, POSITIVE] = 0.01
    """At other focal lengths, bundle adjustment first stops when a step reduces the cost by less than this
    fraction of the cost. It continues only if a noise ratio may be less than `min_clear_ratio`."""
    min_clear_ratio: Annotated[float, Gt(1)] = 1.2
    """Minimum noise ratio at which a focal length is clearly determined, without an exact ratio."""

    def min_ratio(self, is_planar: bool) -> float:
        """Return the minimum noise ratio at which a focal length counts as determined."""
        return self.min_planar_noise_ratio if is_planar else self.min_noise_ratio


@dataclass(frozen=True)
class CameraProfileOptions:
    """Options for comparing shared intrinsics with separate intrinsics for each photo."""

    max_noise_ratio: Annotated[float, Gt(1)] = 1.2
    """Maximum ratio of the observation noise with shared intrinsics to the noise with separate intrinsics;
    with a larger ratio, the photos do not fit one camera. Photos of one camera reach less than 1.05."""
    min_zoom_ratio: Annotated[float, Gt(1)] = 1.1
    """If photos do not fit one camera, they are sorted by focal length and split into two cameras at the
    largest ratio of neighboring focal lengths, provided that this ratio is at least this value."""
    max_num_separations: Annotated[int, COUNT] = 4
    """Maximum number of rounds in which cameras are split; each round splits a camera into at most two."""
    max_log_focal_deviation: Annotated[float, POSITIVE] = 0.1
    """Maximum difference between the natural logarithm of a photo's focal length and the median over the
    photos of its camera; photos with a larger difference count as deviating."""
    max_principal_point_deviation: Annotated[float, SHARE] = 0.08
    """Maximum distance of a photo's principal point from the median over the photos of its camera, as a
    fraction of the longer image side; photos with a larger distance count as deviating."""
    principal_point_sigma_ratio: Annotated[float, POSITIVE] = 0.2
    """Standard deviation of the prior on a photo's own principal point, as a fraction of the longer image
    side."""
    max_num_observations: Annotated[int, COUNT] = 60
    """Maximum average number of observations per photo that are used in the comparison; the observations of
    the longest tracks are used."""
    max_iterations: Annotated[int, COUNT] = 15
    """Maximum number of steps of each bundle adjustment."""
    coarse_tolerance: Annotated[float, POSITIVE] = 5e-3
    """Each bundle adjustment first stops when a step reduces the cost by less than this fraction of the cost.
    It is repeated with `tolerance` only if the noise ratio is more than `max_clear_ratio`."""
    max_clear_ratio: Annotated[float, Gt(1)] = 1.1
    """Maximum noise ratio at which photos clearly fit one camera, without an exact ratio."""
    tolerance: Annotated[float, POSITIVE] = 1e-3
    """A repeated bundle adjustment stops when a step reduces the cost by less than this fraction of the
    cost."""


@dataclass(frozen=True)
class PosePrecisionOptions:
    """Prediction of the errors of the poses from the noise of the observations."""

    max_error: Annotated[float, POSITIVE] = 0.5
    """Maximum predicted mean error of the relative poses, in degrees; a larger error is reported. With 0.5
    degrees, AUC@5 is 90."""
    max_pair_error: Annotated[float, POSITIVE] = 5.0
    """Larger errors of a single pair of photos, in degrees, count as this error."""
    min_baseline_ratio: Annotated[float, SHARE] = 0.02
    """The direction between two cameras is ignored if their distance is less than this fraction of the
    largest distance between two cameras, as between photos of a burst."""
    num_samples: Annotated[int, COUNT] = 10
    """Number of samples of the poses."""
    max_num_images: Annotated[int, COUNT] = 100
    """Maximum number of photos whose relative poses are compared."""


@dataclass(frozen=True)
class RollingShutterOptions:
    """Test of whether cameras moved while the rows of their photos were read."""

    min_explained_fraction: Annotated[float, SHARE] = 0.1
    """Minimum fraction of the squared residuals that a motion during readout explains; a larger fraction is
    reported."""
    min_direction_ratio: Annotated[float, Gt(1)] = 2.0
    """Minimum ratio of the fractions explained by motions during readout of rows and of columns. Other faults
    of the camera model explain both directions equally."""
    max_num_observations: Annotated[int, COUNT] = 200
    """Maximum average number of observations per photo that are used; the observations of the longest tracks
    are used."""


@dataclass(frozen=True)
class ReliabilityOptions:
    """Thresholds beyond which a reconstruction counts as doubtful."""

    evidence: EvidenceOptions = field(default_factory=EvidenceOptions)
    """Comparison of the reconstruction with all verified matches."""
    focal_profile: FocalProfileOptions = field(default_factory=FocalProfileOptions)
    """Test of whether the photos determine the focal length."""
    camera_profile: CameraProfileOptions = field(default_factory=CameraProfileOptions)
    """Comparison of shared intrinsics with separate intrinsics for each photo."""
    pose_precision: PosePrecisionOptions = field(default_factory=PosePrecisionOptions)
    """Prediction of the errors of the poses."""
    rolling_shutter: RollingShutterOptions = field(default_factory=RollingShutterOptions)
    """Test of whether cameras moved while the rows of their photos were read."""
    max_exif_focal_ratio: Annotated[float, Gt(1)] = 1.15
    """If the estimated focal length and the focal length in the EXIF data differ by more than this factor,
    the difference is reported."""
    min_registered_ratio: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Minimum fraction of the photos that are registered; with a smaller fraction, the reconstruction is
    reported as weakly supported."""
    min_observations_per_image: Annotated[int, COUNT] = 50
    """Minimum average number of observations per registered photo; with fewer, the reconstruction is reported
    as weakly supported."""
