"""What a reconstruction starts from: the matches of training images, and what is known besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nope_splat.depth import DepthMap
from nope_splat.matching import Keypoints, PairMatches, Pointmaps
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.initialization.degeneracy import is_planar_or_rotation, is_pure_rotation
from nope_splat.sfm.initialization.focal import FocalEstimate, within_cameras
from nope_splat.sfm.initialization.pointmap_fusion import pointmap_focals
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.state import FocalPrior
from nope_splat.utils.stopwatch import Stopwatch
from nope_splat.utils.typing import Array, Indices


@dataclass(frozen=True)
class Priors:
    """What is known about cameras and depth besides the matches."""

    known_cameras: KnownCameras | None = None
    """Cameras to start from."""
    depths: Mapping[int, DepthMap] | None = None
    """Depth maps of training images to start from, by image."""
    initial_focal: float | None = None
    """Focal length of the only camera, in pixels of the full-resolution images."""
    fix_focal: bool = False
    """Whether the focal length stays the initial one or, without one, that of the prior."""


@dataclass(frozen=True)
class SfmProblem:
    """Verified matches of the training images, or of one connected component of their match graph.

    Keypoints and cameras are those of all images, held-out ones included; `pairs` and `pointmaps` decide
    which images take part.
    """

    keypoints: Sequence[Keypoints]
    """Keypoints of each image."""
    camera_groups: CameraGroups
    """Sizes and cameras of the images."""
    pairs: Sequence[PairMatches]
    """Verified matches."""
    pointmaps: Pointmaps | None = None
    """Pointmaps of the pairs, from a matcher that makes any."""
    priors: Priors = Priors()
    """What is known besides the matches."""
    options: MapperOptions = field(default_factory=MapperOptions)
    """Triangulation and bundle adjustment."""
    seed: int = 0
    """Seed of RANSAC."""
    clock: Stopwatch = field(default_factory=Stopwatch)
    """Adds up the seconds of each stage."""

    def component(self, image_ids: Indices) -> SfmProblem:
        """Restrict the problem to one connected component of the match graph.

        Args:
            image_ids: Images of the component. (n,).
        """
        pairs = [pair for pair in self.pairs if pair.first in image_ids]
        matched = np.unique([(pair.first, pair.second) for pair in pairs])
        others = ~np.isin(np.arange(len(self.keypoints)), matched)
        return replace(self, pairs=pairs, pointmaps=self.pointmaps and self.pointmaps.without(others))

    def with_fixed_focal(self) -> SfmProblem:
        """Let the focal length stay the initial one or, without one, that of the prior."""
        return replace(self, priors=replace(self.priors, fix_focal=True))

    @cached_property
    def centered_keypoints(self) -> list[Array]:
        """Keypoints in feature pixels from the image center. (K, 2) for each image."""
        return [
            self.camera_groups.from_center(keypoints.xy, image_id)
            for image_id, keypoints in enumerate(self.keypoints)
        ]

    @property
    def initial_focals(self) -> Array | None:
        """The user's focal length for each camera, feature pixels. (K,)."""
        if self.priors.initial_focal is None:
            return None
        return self.priors.initial_focal / self.camera_groups.camera_pixel_sizes

    @cached_property
    def focal_estimates(self) -> list[FocalEstimate] | None:
        """Focal length of each camera from pointmaps, or the user's; None without pointmaps."""
        if self.pointmaps is None or self.priors.known_cameras is not None:
            return None
        if self.initial_focals is not None:
            focal = float(self.initial_focals[0])
            return [FocalEstimate(focal, (focal,), 0)]
        return pointmap_focals(self.pointmaps, self.camera_groups)

    @property
    def focal_prior(self) -> FocalPrior | None:
        """Prior on the focal lengths from pointmaps."""
        if self.focal_estimates is None:
            return None
        mean, sigma = np.array([(each.focal, each.sigma) for each in self.focal_estimates]).T
        return FocalPrior(mean, sigma)

    @cached_property
    def is_planar(self) -> bool:
        """Whether homographies explain nearly all matches: a flat scene, or a camera that only turns."""
        return bool(self.pairs) and is_planar_or_rotation(self.pairs)

    @cached_property
    def is_pure_rotation(self) -> bool:
        """Whether every camera that has pairs only turns, so that there is no parallax."""
        if not self.is_planar:
            return False
        rotates = [
            is_pure_rotation(self.centered_keypoints, pairs, longer_side)
            for pairs, longer_side in zip(
                within_cameras(self.pairs, self.camera_groups),
                self.camera_groups.longer_sides.tolist(),
                strict=True,
            )
            if pairs
        ]
        return bool(rotates) and all(rotates)
