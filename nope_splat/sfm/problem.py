"""Input of SfM: verified matches of the training images, and priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nope_splat.depth import DepthMap
from nope_splat.matching import Keypoints, PairMatches, Pointmaps
from nope_splat.scene.stationary import StationaryPixels
from nope_splat.scene.tracks import Tracks
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.degeneracy import is_planar_or_rotation, is_pure_rotation
from nope_splat.sfm.initialization.focal import FocalEstimate, pairs_by_camera
from nope_splat.sfm.initialization.pointmap_fusion import pointmap_focals
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.state import FocalPrior, SfmState
from nope_splat.sfm.two_view_geometry import TwoViews, relative_poses
from nope_splat.utils.stopwatch import Stopwatch
from nope_splat.utils.typing import Array, Indices


@dataclass(frozen=True)
class Priors:
    """Prior knowledge of cameras and depth."""

    known_cameras: KnownCameras | None = None
    """Cameras to start from."""
    depths: Mapping[int, DepthMap] | None = None
    """Depth maps of training images to start from, by image index."""
    initial_focal: float | None = None
    """User's focal length of the only camera, in pixels of the full-resolution images."""
    fix_focal: bool = False
    """Whether to fix the focal length, at the user's value or else at the mean of its prior."""


@dataclass(frozen=True)
class ImageEvidence:
    """What matching found out about the images."""

    repetition: Array | None = None
    """Share of the keypoints of each image that look like another place of the same image; None if it is
    unknown. (N,)."""
    stationary: tuple[StationaryPixels, ...] = ()
    """Pixels that stand still while the scene moves, by image size."""
    mirrored: tuple[str, ...] = ()
    """Names of the images that are mirrored compared to the others."""


@dataclass(frozen=True)
class SfmProblem:
    """Verified matches of the training images, or of one connected component of their match graph.

    `keypoints` and `camera_groups` cover all images, including held-out ones; only images in `pairs` or
    `pointmaps` are reconstructed.
    """

    keypoints: Sequence[Keypoints]
    """Keypoints of each image."""
    camera_groups: CameraGroups
    """Sizes and cameras of the images."""
    pairs: Sequence[PairMatches]
    """Verified matches."""
    images: ImageEvidence = ImageEvidence()
    """What matching found out about the images."""
    pointmaps: Pointmaps | None = None
    """Pointmaps of the pairs, if the matcher predicts them."""
    priors: Priors = Priors()
    """Prior knowledge of cameras and depth."""
    options: MapperOptions = field(default_factory=MapperOptions)
    """Triangulation and bundle adjustment."""
    seed: int = 0
    """Seed of RANSAC."""
    clock: Stopwatch = field(default_factory=Stopwatch)
    """Total seconds of each stage."""

    def component(self, image_ids: Indices) -> SfmProblem:
        """Restrict the problem to one connected component of the match graph.

        Args:
            image_ids: Images of the component. (n,).
        """
        pairs = [pair for pair in self.pairs if pair.first in image_ids]
        matched = np.unique([(pair.first, pair.second) for pair in pairs])
        unmatched = ~np.isin(np.arange(len(self.keypoints)), matched)
        return replace(self, pairs=pairs, pointmaps=self.pointmaps and self.pointmaps.without(unmatched))

    def with_fixed_focal(self) -> SfmProblem:
        """Fix the focal length, at the user's value or else at the mean of its prior."""
        return replace(self, priors=replace(self.priors, fix_focal=True))

    @cached_property
    def centered_keypoints(self) -> list[Array]:
        """Keypoints of each image in feature pixels from the image center. (K, 2) each."""
        return [
            self.camera_groups.to_centered(keypoints.xy, image_id)
            for image_id, keypoints in enumerate(self.keypoints)
        ]

    @property
    def initial_focals(self) -> Array | None:
        """User's focal length of each camera, feature pixels; None without one. (K,)."""
        if self.priors.initial_focal is None:
            return None
        return self.priors.initial_focal / self.camera_groups.camera_pixel_sizes

    @cached_property
    def focal_estimates(self) -> list[FocalEstimate] | None:
        """Focal length of each camera, by the user or from pointmaps; None without pointmaps."""
        if self.pointmaps is None or self.priors.known_cameras is not None:
            return None
        if self.initial_focals is not None:
            focal = float(self.initial_focals[0])
            return [FocalEstimate(focal, (focal,), 0, self.options.intrinsics_prior.log_focal_sigma)]
        return pointmap_focals(
            self.pointmaps,
            self.camera_groups,
            self.options.focal,
            self.options.intrinsics_prior.log_focal_sigma,
        )

    @property
    def focal_prior(self) -> FocalPrior | None:
        """Prior on the focal lengths from pointmaps."""
        if self.focal_estimates is None:
            return None
        mean, sigma = np.array([(estimate.focal, estimate.sigma) for estimate in self.focal_estimates]).T
        return FocalPrior(mean, sigma)

    def relative_poses(self, focals: Array) -> TwoViews:
        """Estimate the relative poses of the pairs.

        Args:
            focals: Focal length of each camera, feature pixels. (K,).
        """
        image_focals = focals[self.camera_groups.camera_ids]
        return relative_poses(
            self.centered_keypoints, self.pairs, image_focals, self.seed, self.options.two_view
        )

    def initial_state(self, tracks: Tracks, focals: Array) -> SfmState:
        """Create a state without poses and points.

        Args:
            tracks: Tracks in full-resolution pixels.
            focals: Focal length of each camera, feature pixels. (K,).
        """
        return SfmState.from_tracks(
            tracks,
            self.camera_groups,
            focals,
            self.priors.fix_focal,
            self.focal_prior,
            self.options.intrinsics_prior,
        )

    @cached_property
    def is_planar(self) -> bool:
        """Whether homographies explain nearly all matches: a planar scene, or a camera that only rotates."""
        return bool(self.pairs) and is_planar_or_rotation(self.pairs, self.options.degeneracy)

    @cached_property
    def is_pure_rotation(self) -> bool:
        """Whether matched images differ by rotations only, so that there is no parallax."""
        if not self.is_planar:
            return False
        options, focal_options = self.options.degeneracy, self.options.focal
        rotates = [
            is_pure_rotation(self.centered_keypoints, pairs, longer_side, options, focal_options)
            for pairs, longer_side in zip(
                pairs_by_camera(self.pairs, self.camera_groups),
                self.camera_groups.longer_sides.tolist(),
                strict=True,
            )
            if pairs
        ]
        return bool(rotates) and all(rotates)
