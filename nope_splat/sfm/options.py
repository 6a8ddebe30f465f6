"""What the user can choose about reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from nope_splat.depth import DepthSettings
from nope_splat.matching import MatchingSettings
from nope_splat.utils.ranges import POSITIVE


@dataclass(frozen=True)
class ReconstructionSettings(MatchingSettings):
    """How images are matched and reconstructed."""

    registration: Literal["incremental", "batches", "chain", "depth", "pointmaps"] = "incremental"
    """How poses are found: one image after another by the points it sees; batch by batch, outward from
    the image with most partners (for hundreds); by chaining relative poses along the maximum spanning
    tree of the match graph (for thin overlap); by the depth of single images along that tree, from a
    field of view of 60 degrees (the paper's initialization; depth comes from a network, see depth.model for
    what it needs and its licenses, from depth.maps or from the matcher dust3r); or by bringing the pointmaps
    of all pairs into one world, as DUSt3R does (needs the matcher dust3r, which see for its terms: for
    images whose surfaces or number give too few matches)."""
    depth: DepthSettings = field(default_factory=DepthSettings)
    """Where depth of single images comes from."""
    one_camera_per: Literal["size", "folder"] = "size"
    """Which images share a camera, its focal length, principal point and distortion: those of one size
    (portrait or landscape), or those of one size in one sub-folder."""
    cameras: Path | None = None
    """Cameras to start from instead of from nothing: a `transforms.json`, or a folder with a COLMAP model.
    They are adjusted where the images contradict them; images that it lacks are registered."""
    initial_focal: Annotated[float | None, POSITIVE] = None
    """Focal length to start from, in pixels of the full-resolution images; estimated if not given, but
    with registration depth that of a field of view of 60 degrees."""
    refine_principal_point: bool = True
    """Whether to adjust the principal point, where all images of a camera have the same orientation."""
    refine_radial_distortion: bool | None = True
    """Whether to adjust radial distortion, where it can be determined; if None, where without it tracks and
    cameras disagree by a quarter more."""
    min_triangulation_angle: Annotated[float, Interval(gt=0, le=90)] = 1.5
    """Smallest angle, in degrees, between the rays that make a track point."""
    adjustment_device: Literal["cpu", "cuda"] = "cpu"
    """Where bundle adjustment runs; a GPU pays for hundreds of images only."""
