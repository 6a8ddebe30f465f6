"""Input of SfM: verified matches of the training images, with priors and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nope_splat.depth import DepthMap
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import NUM_TERMS
from nope_splat.geometry.division import DivisionLens
from nope_splat.geometry.projection import LensModel
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
    """Prior knowledge of cameras and depth that initializes a reconstruction."""

    known_cameras: KnownCameras | None = None
    """Known poses and intrinsics; None if no cameras are known."""
    depths: Mapping[int, DepthMap] | None = None
    """Monocular depth maps of training images, by image index; None if the initialization does not use depth
    maps."""
    initial_focal: float | None = None
    """Focal length given by the user, in pixels of the full-resolution images; None if it is estimated. If it
    is given, all images must share one camera."""
    fix_focal: bool = False
    """Whether to keep the focal length fixed: at the value given by the user or, without such a value, at the
    mean of the prior."""
    exif_focals: Array | None = None
    """Focal length of each camera according to EXIF data, in full-resolution pixels; NaN for cameras whose
    EXIF data do not determine it, None if EXIF data are not used. (K,)."""


@dataclass(frozen=True)
class ImageProperties:
    """Names of the images, and properties that were found during matching."""

    names: tuple[str, ...] = ()
    """Name of each image. (N,)."""
    repetition: Array | None = None
    """Fraction of each image's keypoints that resemble another place in the same image; None if unknown.
    (N,)."""
    stationary: tuple[StationaryPixels, ...] = ()
    """Grid cells whose content stays at the same pixels in all images, such as a logo; one entry per image
    size that has such cells."""
    mirrored: tuple[str, ...] = ()
    """Names of the images that are mirrored relative to the other images; they are not reconstructed."""


@dataclass(frozen=True)
class SfmProblem:
    """Input of SfM: verified matches, with priors and options.

    The matches are those of all training images, or of one connected component of the match graph.
    `keypoints` and `camera_groups` contain all images, including held-out images. Only images in `pairs` or
    `pointmaps`, and images with a known camera, are reconstructed.
    """

    keypoints: Sequence[Keypoints]
    """Keypoints of each image."""
    camera_groups: CameraGroups
    """Image sizes, and camera of each image."""
    pairs: Sequence[PairMatches]
    """Verified matches of each image pair."""
    images: ImageProperties = ImageProperties()
    """Properties of the images that were found during matching."""
    pointmaps: Pointmaps | None = None
    """Pointmaps of the image pairs; None if the matcher does not predict pointmaps."""
    priors: Priors = Priors()
    """Known cameras, depth maps and initial focal length."""
    options: MapperOptions = field(default_factory=MapperOptions)
    """Options of triangulation and bundle adjustment."""
    num_separated: int = 0
    """Number of cameras that `separate_zooms` added for images that did not fit their camera."""
    seed: int = 0
    """Random seed of RANSAC."""
    clock: Stopwatch = field(default_factory=Stopwatch)
    """Stopwatch that accumulates the wall time of each stage."""

    def component(self, image_ids: Indices) -> SfmProblem:
        """Restrict the problem to one connected component of the match graph.

        Args:
            image_ids: Indices of the images in the component. (n,).
        """
        pairs = [pair for pair in self.pairs if pair.first in image_ids]
        matched = np.unique([(pair.first, pair.second) for pair in pairs])
        unmatched = ~np.isin(np.arange(len(self.keypoints)), matched)
        return replace(self, pairs=pairs, pointmaps=self.pointmaps and self.pointmaps.without(unmatched))

    def with_fixed_focal(self) -> SfmProblem:
        """Return the problem with a fixed focal length.

        The focal length is the value given by the user or, without such a value, the mean of its prior.
        """
        return replace(self, priors=replace(self.priors, fix_focal=True))

    def with_cameras(self, camera_groups: CameraGroups) -> SfmProblem:
        """Return the problem with a new assignment of images to cameras, in which some cameras are split.

        Args:
            camera_groups: The new assignment. Existing cameras keep their indices; new cameras follow.
        """
        exif_focals = self.priors.exif_focals
        if exif_focals is not None:
            added = camera_groups.num_cameras - len(exif_focals)
            exif_focals = np.append(exif_focals, np.full(added, np.nan))
            for camera in range(len(exif_focals)):
                members = camera_groups.camera_ids == camera
                if not np.array_equal(members, self.camera_groups.camera_ids == camera):
                    exif_focals[camera] = np.nan  # states the same focal length for images that differ
        priors = replace(self.priors, exif_focals=exif_focals)
        num_separated = self.num_separated + camera_groups.num_cameras - self.camera_groups.num_cameras
        return replace(self, camera_groups=camera_groups, priors=priors, num_separated=num_separated)

    @cached_property
    def centered_keypoints(self) -> list[Array]:
        """Keypoints of each image relative to the image center. (K, 2) each.

        The unit is pixels at keypoint detection resolution.
        """
        return [
            self.camera_groups.to_centered(keypoints.xy, image_id)
            for image_id, keypoints in enumerate(self.keypoints)
        ]

    @cached_property
    def pinhole_keypoints(self) -> list[Array]:
        """Keypoints of each image where a pinhole camera would see them. (K, 2) each.

        They differ from `centered_keypoints` for wide-angle lenses only, where points that a pinhole camera
        cannot show are NaN. They are relative to the image center, in pixels at keypoint detection
        resolution.
        """
        return [
            DivisionLens(tuple(size.tolist()), keypoints.division).pinhole_pixels(keypoints.xy) / pixel_size
            if keypoints.division
            else xy
            for keypoints, xy, size, pixel_size in zip(
                self.keypoints,
                self.centered_keypoints,
                self.camera_groups.sizes,
                self.camera_groups.pixel_sizes,
                strict=True,
            )
        ]

    def initial_lenses(self, focals: Array) -> LensModel:
        """Return the initial lens of each of the K cameras: fisheye lenses for wide-angle images.

        Args:
            focals: Focal length of each camera, in pixels at keypoint detection resolution. (K,).
        """
        groups = self.camera_groups
        distortion, is_fisheye = np.zeros((len(focals), NUM_TERMS)), np.zeros(len(focals), bool)
        for image_id, keypoints in enumerate(self.keypoints):
            camera = groups.camera_ids[image_id]
            if keypoints.division and not is_fisheye[camera]:
                is_fisheye[camera] = True
                lens = DivisionLens(tuple(groups.sizes[image_id].tolist()), keypoints.division)
                focal = float(focals[camera] * groups.pixel_sizes[image_id])
                distortion[camera, :2] = lens.fisheye_terms(focal)
        return LensModel(distortion, is_fisheye)

    @property
    def initial_focals(self) -> Array | None:
        """Focal length given by the user, for each camera; None if not given. (K,).

        The unit is pixels at keypoint detection resolution.
        """
        if self.priors.initial_focal is None:
            return None
        return self.priors.initial_focal / self.camera_groups.camera_pixel_sizes

    @cached_property
    def focal_estimates(self) -> list[FocalEstimate] | None:
        """Estimated focal length of each camera; None without pointmaps or with known cameras.

        The focal length is the value given by the user or, without such a value, an estimate from the
        pointmaps.
        """
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

    @cached_property
    def exif_focals(self) -> Array:
        """Focal length of each camera according to EXIF data. (K,).

        The unit is pixels at keypoint detection resolution. The value is NaN if EXIF data do not determine
        it, if there are known cameras, or if the user gave a focal length.
        """
        focals, pixel_sizes = self.priors.exif_focals, self.camera_groups.camera_pixel_sizes
        is_given = self.priors.known_cameras is not None or self.priors.initial_focal is not None
        return np.full(len(pixel_sizes), np.nan) if focals is None or is_given else focals / pixel_sizes

    def focal_prior(self, default: Array, max_exif_ratio: float = np.inf) -> FocalPrior:
        """Choose the most certain prior of each focal length: from pointmaps, EXIF data, or a default.

        Args:
            default: Mean of the weak prior of cameras without pointmaps and EXIF data, in pixels at keypoint
                detection resolution. (K,).
            max_exif_ratio: Maximum ratio between the focal lengths of EXIF data and `default`; EXIF data of
                cameras with a larger ratio are not used.
        """
        sigmas = self.options.intrinsics_prior
        mean, sigma = default, np.full(len(default), sigmas.log_focal_sigma)
        if self.focal_estimates is not None:
            mean, sigma = np.array([(estimate.focal, estimate.sigma) for estimate in self.focal_estimates]).T
        agrees = np.abs(np.log(self.exif_focals / default)) < np.log(max_exif_ratio)  # False for NaN
        by_exif = agrees & (sigma > sigmas.exif_log_focal_sigma)
        return FocalPrior(
            np.where(by_exif, self.exif_focals, mean), np.where(by_exif, sigmas.exif_log_focal_sigma, sigma)
        )

    def relative_poses(self, focals: Array) -> TwoViews:
        """Estimate the relative pose of each pair.

        Args:
            focals: Focal length of each camera, in pixels at keypoint detection resolution. (K,).

        Returns:
            Relative poses and inlier matches by pair; pairs with too few inliers are omitted.
        """
        lenses = self.initial_lenses(focals)
        cameras = [
            Camera(focal, distortion=tuple(terms), is_fisheye=is_fisheye)
            for focal, terms, is_fisheye in zip(
                focals.tolist(), lenses.distortion.tolist(), lenses.is_fisheye.tolist(), strict=True
            )
        ]
        of_images = [cameras[camera] for camera in self.camera_groups.camera_ids]
        return relative_poses(
            self.centered_keypoints, self.pairs, of_images, self.seed, self.options.two_view
        )

    def initial_state(self, tracks: Tracks, focals: Array) -> SfmState:
        """Create a state without poses and points.

        Args:
            tracks: Tracks in full-resolution pixels.
            focals: Focal length of each camera, in pixels at keypoint detection resolution. (K,).
        """
        state = SfmState.from_tracks(
            tracks,
            self.camera_groups,
            focals,
            self.priors.fix_focal,
            self.focal_prior(focals, self.options.focal.max_exif_ratio),
            self.options.intrinsics_prior,
        )
        state.distortion, state.is_fisheye = self.initial_lenses(focals)
        return state

    @cached_property
    def is_planar(self) -> bool:
        """Whether homographies explain nearly all matches: a planar scene, or a purely rotating camera."""
        return bool(self.pairs) and is_planar_or_rotation(self.pairs, self.options.degeneracy)

    @cached_property
    def is_pure_rotation(self) -> bool:
        """Whether matched images differ only by camera rotations, so that there is no parallax."""
        if not self.is_planar:
            return False
        options, focal_options = self.options.degeneracy, self.options.focal
        rotates = [
            is_pure_rotation(self.pinhole_keypoints, pairs, longer_side, options, focal_options)
            for pairs, longer_side in zip(
                pairs_by_camera(self.pairs, self.camera_groups),
                self.camera_groups.longer_sides.tolist(),
                strict=True,
            )
            if pairs
        ]
        return bool(rotates) and all(rotates)
