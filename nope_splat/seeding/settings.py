"""Settings of dense seeding.

Names follow COLMAP's stereo where COLMAP has them: source views, `min_tri_angle`, `max_depth_error`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE


@dataclass(frozen=True)
class ViewSelectionConfig:
    """Selection of source views."""

    min_shared_points: Annotated[int, COUNT] = 30
    """Minimum number of track points that a source view shares with the image."""
    min_full_angle: Annotated[float, Interval(gt=0, le=180)] = 4.0
    """Triangulation angle in degrees from which a shared point has full weight. Smaller angles give imprecise
    depth."""
    max_full_angle: Annotated[float, Interval(gt=0, le=180)] = 25.0
    """Triangulation angle in degrees up to which a shared point has full weight. At larger angles the
    appearance differs too much for matching."""


@dataclass(frozen=True)
class InterpolationConfig:
    """Interpolation of inverse depth between track points."""

    min_points: Annotated[int, Ge(9)] = 16
    """Minimum number of track points in an image. Images with fewer get no seeds."""
    num_neighbors: Annotated[int, Interval(ge=1, le=8)] = 8
    """Nearest track points that an inverse depth is compared with to find outliers."""
    max_spread: Annotated[float, NOT_NEGATIVE] = 5.0
    """Maximum difference from the median of the neighbors: this multiple of their median absolute deviation,
    plus `max_deviation`."""
    max_deviation: Annotated[float, NOT_NEGATIVE] = 0.05
    """Fraction of the median of the neighbors, added to the threshold of `max_spread`. It matters if the
    neighbors agree closely."""
    grid_spacing: Annotated[int, COUNT] = 4
    """Spacing in pixels of the grid at which the triangulation is evaluated, to save time."""
    num_border_columns: Annotated[int, Ge(2)] = 13
    """Points that extend the triangulation to the top border, and to the bottom border."""
    num_border_rows: Annotated[int, Ge(2)] = 9
    """Points that extend the triangulation to the left border, and to the right border."""
    num_border_neighbors: Annotated[int, Ge(2)] = 5
    """Nearest track points whose median inverse depth a border point takes."""


@dataclass(frozen=True)
class FlowConfig:
    """Triangulation of optical flow."""

    max_cycle_error: Annotated[float, POSITIVE] = 1.0
    """Maximum distance in pixels between a pixel and its image under forward and backward flow."""
    max_reprojection_error: Annotated[float, POSITIVE] = 1.5
    """Maximum distance in pixels between a correspondence and the projection of its triangulated point."""
    max_depth_error: Annotated[float, POSITIVE] = 0.015
    """Maximum relative difference in inverse depth between consistent source views."""


@dataclass(frozen=True)
class FusionConfig:
    """Fusion of depth maps to a point cloud."""

    max_depth_error: Annotated[float, POSITIVE] = 0.04
    """Maximum relative difference in inverse depth between a point and the surface that it covers."""
    free_space_factor: Annotated[float, Ge(1)] = 1.05
    """A point violates free space in a view if its inverse depth exceeds that of the surface by this
    factor."""
    min_num_consistent: Annotated[int, COUNT] = 2
    """Number of consistent source views from which a surface counts as confirmed."""
    min_num_violations: Annotated[int, COUNT] = 2
    """Number of views in which a point has to violate free space to be removed."""


@dataclass(frozen=True)
class SeedSettings:
    """Settings of dense seeding."""

    max_image_size: Annotated[int, Ge(32)] = 512
    """Longer side in pixels of the images for seeding."""
    num_source_views: Annotated[int, COUNT] = 3
    """Source views that each image is matched with."""
    min_tri_angle: Annotated[float, Interval(ge=0, le=90)] = 1.0
    """Smallest triangulation angle in degrees."""
    cell_size: Annotated[int, COUNT] = 4
    """Width in pixels of the square image cell that gets one seed."""
    view_selection: ViewSelectionConfig = ViewSelectionConfig()
    """Selection of source views."""
    interpolation: InterpolationConfig = InterpolationConfig()
    """Interpolation of inverse depth between track points, which initializes the flow."""
    flow: FlowConfig = FlowConfig()
    """Triangulation of optical flow."""
    fusion: FusionConfig = FusionConfig()
    """Fusion of depth maps to a point cloud."""
