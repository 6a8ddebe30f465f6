"""Options of structure from motion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import OmitSubcommandPrefixes, subcommand

from nope_splat.depth import DepthSettings
from nope_splat.matching import MatchingSettings
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.sfm.initialization.pointmap_alignment import PointmapInitialization
from nope_splat.sfm.initialization.two_view import TwoViewInitialization
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.registration.batched import BatchedRegistration
from nope_splat.sfm.registration.incremental import IncrementalRegistration
from nope_splat.sfm.registration.spanning_tree import SpanningTreeRegistration
from nope_splat.utils.ranges import POSITIVE

InitializationConfig = (
    Annotated[TwoViewInitialization, subcommand("initialization:two-view", prefix_name=False)]
    | Annotated[KnownCamerasInitialization, subcommand("initialization:known-cameras", prefix_name=False)]
    | Annotated[MonocularDepthInitialization, subcommand("initialization:depth", prefix_name=False)]
    | Annotated[PointmapInitialization, subcommand("initialization:pointmaps", prefix_name=False)]
)
RegistrationConfig = (
    Annotated[IncrementalRegistration, subcommand("registration:incremental", prefix_name=False)]
    | Annotated[BatchedRegistration, subcommand("registration:batched", prefix_name=False)]
    | Annotated[SpanningTreeRegistration, subcommand("registration:spanning-tree", prefix_name=False)]
)


@dataclass(frozen=True)
class SfmOptions:
    """How photos are matched and cameras are found."""

    matching: MatchingSettings = field(default_factory=MatchingSettings)
    """Keypoints, pairs and verified matches."""
    mapper: MapperOptions = field(default_factory=MapperOptions)
    """Triangulation and bundle adjustment."""
    depth: DepthSettings = field(default_factory=DepthSettings)
    """Where the depth of single photos comes from."""
    camera_per: Literal["size", "folder"] = "size"
    """Which photos share a camera, its focal length, principal point and distortion: those of one size
    (portrait or landscape), or those of one size in one sub-folder."""
    initial_focal: Annotated[float | None, POSITIVE] = None
    """Focal length to start from, in pixels of the full-resolution photos. By default it is estimated, or,
    for the initialization by depth, that of a field of view of 60 degrees."""
    keep_doubtful: bool = False
    """Whether to keep photos most of whose matches contradict their pose, instead of leaving them out."""
    strict: bool = False
    """Whether to stop with an error if there is reason to doubt the cameras, instead of only telling it. What
    was computed stays in the cache."""
    initialization: OmitSubcommandPrefixes[InitializationConfig] = field(
        default_factory=TwoViewInitialization
    )
    """How the first cameras are found."""
    registration: OmitSubcommandPrefixes[RegistrationConfig] = field(default_factory=IncrementalRegistration)
    """How the other photos are registered."""
