"""Settings of dense seeding.

Names such as `min_tri_angle` and `max_depth_error` follow COLMAP's multi-view stereo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE


@dataclass(frozen=True)
class ViewSelectionConfig:
    """Selection of source views. Optical flow is computed from each image to its source views."""

    min_shared_points: Annotated[int, COUNT] = 30
    """Minimum number of track points shared by an image and its source view; pairs of images with fewer are
    not matched."""
    min_full_weight_angle: Annotated[float, Interval(gt=0, le=180)] = 4.0
    """Triangulation angle, in degrees, below which a shared point gets less weight in the ranking of source
    views, because small angles give imprecise depth."""
    max_full_weight_angle: Annotated[float, Interval(gt=0, le=180)] = 25.0
    """Triangulation angle, in degrees, above which a shared point gets less weight in the ranking of source
    views, because the appearance changes too much for matching."""


@dataclass(frozen=True)
class InterpolationConfig:
    """Interpolation of inverse depth between the track points of an image."""

    min_points: Annotated[int, Ge(9)] = 16
    """Minimum number of track points in an image; images with fewer get no seeds."""
    num_neighbors: Annotated[int, Interval(ge=1, le=8)] = 8
    """Number of nearest track points in the image with which the inverse depth of a track point is compared
    to detect outliers."""
    max_deviation_mads: Annotated[float, NOT_NEGATIVE] = 5.0
    """Outlier threshold for the inverse depth q of a track point, given the median m and the median absolute
    deviation s of the inverse depths of its neighbors. The point is removed if |q - m| is at least
    `max_deviation_mads` s + `max_relative_deviation` m. Smaller values remove more points."""
    max_relative_deviation: Annotated[float, NOT_NEGATIVE] = 0.05
    """Part of the outlier threshold of `max_deviation_mads` that is proportional to the median inverse depth
    of the neighbors, as a fraction of this median. It prevents the removal of points whose neighbors have
    nearly equal depths."""
    grid_spacing: Annotated[int, COUNT] = 4
    """Spacing, in pixels, of the grid on which the triangulation is evaluated; larger values are faster but
    less precise."""
    num_border_columns: Annotated[int, Ge(2)] = 13
    """Number of points added along the top border, including both corners; the bottom border gets the same
    number. These points extend the triangulation to the image border."""
    num_border_rows: Annotated[int, Ge(2)] = 9
    """Number of points added along the left border, including both corners; the right border gets the same
    number. These points extend the triangulation to the image border."""
    num_border_neighbors: Annotated[int, Ge(2)] = 5
    """Number of nearest track points whose median inverse depth is assigned to a border point."""


@dataclass(frozen=True)
class FlowConfig:
    """Thresholds for the triangulation of optical flow."""

    max_cycle_error: Annotated[float, POSITIVE] = 1.0
    """Maximum forward-backward error of the optical flow, in pixels; pixels with a larger error get no
    depth."""
    max_reprojection_error: Annotated[float, POSITIVE] = 1.5
    """Maximum distance, in pixels, between the correspondence of a pixel in the source view and the
    reprojection of the triangulated point; pixels with a larger error get no depth."""
    max_relative_difference: Annotated[float, POSITIVE] = 0.015
    """Maximum relative difference at which two inverse depths of a pixel, from two source views, count as
    consistent. Smaller values confirm fewer surfaces."""


@dataclass(frozen=True)
class FusionConfig:
    """Fusion of the depth maps of all images into one point cloud."""

    max_depth_error: Annotated[float, POSITIVE] = 0.04
    """A cell of an image gets no point if a point from an earlier image already lies on the surface that the
    cell shows. The point counts as lying on the surface if their inverse depths differ by less than this
    fraction of the surface's inverse depth, so larger values give fewer points."""
    free_space_factor: Annotated[float, Ge(1)] = 1.05
    """A point violates the free space of a view, between the camera and the surface, if its inverse depth is
    larger than this factor times the inverse depth of the surface; larger factors remove fewer points."""
    min_num_consistent: Annotated[int, COUNT] = 2
    """A surface is confirmed if at least this number of source views agree on its depth. Only confirmed
    surfaces are used to detect points in free space, so larger values remove fewer points."""
    min_num_violations: Annotated[int, COUNT] = 2
    """A point is removed if it violates the free space of at least this number of views; larger values remove
    fewer points."""


@dataclass(frozen=True)
class SeedSettings:
    """Settings of dense seeding."""

    max_image_size: Annotated[int, Ge(32)] = 512
    """Maximum length of the longer image side, in pixels, for seeding; larger images are downscaled."""
    num_source_views: Annotated[int, COUNT] = 3
    """Maximum number of source views per image. Optical flow is computed from the image to each source view;
    more source views confirm more surfaces but take longer."""
    min_tri_angle: Annotated[float, Interval(ge=0, le=90)] = 1.0
    """Minimum triangulation angle between an image and a source view, in degrees; pixels with a smaller angle
    get no depth from this source view."""
    cell_size: Annotated[int, COUNT] = 4
    """Side length, in pixels, of the square cells into which an image is divided. Each cell gets at most one
    seed, so smaller cells give more seeds."""
    view_selection: ViewSelectionConfig = ViewSelectionConfig()
    """Selection of source views."""
    interpolation: InterpolationConfig = InterpolationConfig()
    """Interpolation of inverse depth between track points, as initialization of the optical flow."""
    flow: FlowConfig = FlowConfig()
    """Thresholds for the triangulation of optical flow."""
    fusion: FusionConfig = FusionConfig()
    """Fusion of the depth maps of all images into one point cloud."""
