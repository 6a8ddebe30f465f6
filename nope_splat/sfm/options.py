"""Options of structure from motion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import OmitSubcommandPrefixes, arg, subcommand

from nope_splat.depth import DepthSettings
from nope_splat.io.frame_choice import FrameOptions
from nope_splat.matching import MatchingSettings
from nope_splat.sfm.camera_assignment import CameraPer
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
    """Options of structure from motion, from image matching to the final refinement."""

    matching: MatchingSettings = field(default_factory=MatchingSettings)
    """Detection and matching of keypoints, and geometric verification of the matches."""
    mapper: MapperOptions = field(default_factory=MapperOptions)
    """Triangulation, bundle adjustment and final refinement."""
    depth: DepthSettings = field(default_factory=DepthSettings)
    """Source of the monocular depth maps."""
    camera_per: CameraPer = "lens"
    """Which photos share a camera, that is, focal length, principal point and distortion. "lens": photos of
    the same size (in portrait or landscape format) with the same camera, lens and focal length in their EXIF
    data, or without this EXIF data. "folder": photos of the same size in the same folder. "size": photos of
    the same size. Each video has a camera of its own; with "size", videos of the same size share one."""
    frames: Annotated[FrameOptions, arg(name="")] = field(default_factory=FrameOptions)
    """Choice of frames of videos."""
    invert_masks: bool = False
    """Whether to ignore the white areas of masks instead of the black areas."""
    initial_focal: Annotated[float | None, POSITIVE] = None
    """Initial focal length, in pixels of the full-resolution photos. By default, it is estimated from the
    pointmaps if the matcher predicts them, and otherwise from the matches or, if these are inconsistent, from
    EXIF data. Initialization by depth takes it from EXIF data or, without EXIF data, assumes a field of view
    of 60 degrees."""
    keep_doubtful: bool = False
    """Whether to keep photos whose pose contradicts most of their matches; by default, they are left out."""
    strict: bool = False
    """Whether to stop with an error if the cameras are doubtful; by default there is only a warning. Computed
    results stay in the cache in both cases."""
    initialization: OmitSubcommandPrefixes[InitializationConfig] = field(
        default_factory=TwoViewInitialization
    )
    """Method that estimates the first cameras."""
    registration: OmitSubcommandPrefixes[RegistrationConfig] = field(default_factory=IncrementalRegistration)
    """Method that registers the remaining photos."""
