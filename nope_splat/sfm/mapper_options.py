"""Options that every way of registering images shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval


@dataclass(frozen=True)
class MapperOptions:
    """Triangulation and bundle adjustment, with COLMAP's names."""

    min_tri_angle: Annotated[float, Interval(gt=0, le=90)] = 1.5
    """Smallest angle, in degrees, between the rays that make a track point."""
    refine_principal_point: bool = True
    """Whether to adjust the principal point, where all photos of a camera have the same orientation."""
    refine_extra_params: bool | None = True
    """Whether to adjust radial distortion where the photos determine it; if None, only where observations
    would be noisier by a quarter without it."""
    ba_device: Literal["cpu", "cuda"] = "cpu"
    """Where bundle adjustment runs; a GPU pays off for hundreds of photos only."""
