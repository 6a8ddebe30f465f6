"""Mutable SfM state: poses, intrinsics, 3D points and inlier observations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.geometry.camera import Camera, project_errors
from nope_splat.geometry.distortion import NUM_TERMS, turn_distortion
from nope_splat.geometry.projection import LensModel, unproject
from nope_splat.geometry.rigid import rotate, transform
from nope_splat.geometry.robust import RAYLEIGH_MEDIAN
from nope_splat.scene.tracks import Tracks
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem
from nope_splat.sfm.bundle_adjustment.solver import BundleResult, bundle_adjust
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.mapper_options import IntrinsicsPriorOptions
from nope_splat.utils.typing import Array, Indices, Mask

MIN_SIGMA = 0.01
"""Minimum standard deviation of an observation, in pixels at keypoint detection resolution."""


class FocalPrior(NamedTuple):
    """Gaussian prior on the logarithm of each camera's focal length."""

    mean: Array
    """Focal length whose logarithm is the mean of each camera's prior, in pixels at keypoint detection
    resolution. (K,)."""
    sigma: Array
    """Standard deviation of the natural logarithm of each camera's focal length. (K,)."""


@dataclass
class SfmState:
    """Mutable state of SfM: poses, intrinsics, points and observations.

    There are N images, K cameras (sets of intrinsics that images share), T tracks and O observations. Image
    coordinates and thresholds are in *pixels at keypoint detection resolution*: pixels of the image after
    scaling it to the size at which keypoints were detected. Image coordinates are relative to the image
    center.
    """

    track_ids: Indices
    """Index of the track of each observation, in ascending order. (O,)."""
    image_ids: Indices
    """Index of the image of each observation. (O,)."""
    keypoint_ids: Indices
    """Index of each observation's keypoint among the keypoints of its image. (O,)."""
    xy: Array
    """Observed image coordinates relative to the image center, in pixels at keypoint detection resolution.
    (O, 2)."""
    sigma: Array
    """Standard deviation of the x and of the y coordinate of each observation, in pixels at keypoint
    detection resolution. Only ratios between observations are meaningful before `estimate_noise`. (O,)."""
    half_size: Array
    """Half the width and half the height of each image, in pixels at keypoint detection resolution.
    (N, 2)."""
    camera_ids: Indices
    """Index of the camera (set of intrinsics) of each image. (N,)."""
    focal: Array
    """Focal length of each camera, in pixels at keypoint detection resolution. (K,)."""
    initial_focal: Array
    """Focal length of each camera before bundle adjustment, in pixels at keypoint detection resolution.
    (K,)."""
    focal_prior: FocalPrior
    """Prior on the focal lengths in bundle adjustment."""
    fix_focal: bool
    """Whether bundle adjustment keeps the focal lengths fixed, because the images do not determine them."""
    offset: Array
    """Principal point minus image center of each camera, in pixels of the sensor at keypoint detection
    resolution. (K, 2)."""
    upright_from_sensor: Array
    """Rotation and mirroring that turn the principal point and the tangential distortion of each image
    upright; zeros if unknown. (N, 2, 2)."""
    lens_ids: Indices
    """For each camera, the index of the first camera with the same lens (see `find_shared_lenses`). (K,)."""
    distortion: Array
    """Distortion coefficients k1, k2, k3, k4, p1 and p2 of each camera (see `Camera`). (K, 6)."""
    is_fisheye: Mask
    """Whether the projection of each camera is equidistant instead of perspective. (K,)."""
    T_camera_world: Array
    """World-to-camera transform of each image (OpenCV axes); only valid for registered images. (N, 4, 4)."""
    registered: Mask
    """Whether each image has a pose. (N,)."""
    points: Array
    """World coordinates of the point of each track; only valid for triangulated tracks. (T, 3)."""
    has_point: Mask
    """Whether each track is triangulated. (T,)."""
    inlier: Mask
    """Whether each observation is in a registered image and agrees with the point of its track. (O,)."""
    intrinsics_prior: IntrinsicsPriorOptions
    """Standard deviations of the priors on the intrinsics."""

    @classmethod
    def from_tracks(
        cls,
        tracks: Tracks,
        camera_groups: CameraGroups,
        focal: Array,
        fix_focal: bool = False,
        focal_prior: FocalPrior | None = None,
        intrinsics_prior: IntrinsicsPriorOptions = IntrinsicsPriorOptions(),
    ) -> SfmState:
        """Create a state without poses and points.

        Args:
            tracks: Tracks in full-resolution pixels.
            camera_groups: Image sizes, and camera of each image.
            focal: Focal length of each camera, in pixels at keypoint detection resolution. (K,).
            fix_focal: Whether bundle adjustment keeps the focal lengths fixed.
            focal_prior: Prior on the focal lengths; by default a weak prior with mean `focal`.
            intrinsics_prior: Standard deviations of the priors on the intrinsics.

        Returns:
            The state, in which no image is registered.
        """
        observations, num_images = tracks.observations, len(camera_groups.sizes)
        return cls(
            track_ids=observations.point_ids,
            image_ids=observations.image_ids,
            keypoint_ids=tracks.keypoint_ids,
            xy=camera_groups.to_centered(observations.xy, observations.image_ids),
            sigma=tracks.noise.copy(),
            half_size=camera_groups.sizes / (2 * camera_groups.pixel_sizes[:, None]),
            camera_ids=camera_groups.camera_ids,
            focal=focal,
            initial_focal=focal,
            focal_prior=focal_prior
            or FocalPrior(focal, np.full(len(focal), intrinsics_prior.log_focal_sigma)),
            fix_focal=fix_focal,
            offset=np.zeros((len(focal), 2)),
            upright_from_sensor=camera_groups.upright_from_sensor,
            lens_ids=np.arange(len(focal)),
            distortion=np.zeros((len(focal), NUM_TERMS)),
            is_fisheye=np.zeros(len(focal), bool),
            T_camera_world=np.tile(np.eye(4), (num_images, 1, 1)),
            registered=np.zeros(num_images, bool),
            points=np.zeros((len(tracks), 3)),
            has_point=np.zeros(len(tracks), bool),
            inlier=np.zeros(len(observations), bool),
            intrinsics_prior=intrinsics_prior,
        )

    def snapshot(self) -> SfmState:
        """Copy the state and all arrays that registration changes; `restore` returns to the copy."""
        return replace(
            self,
            sigma=self.sigma.copy(),
            T_camera_world=self.T_camera_world.copy(),
            registered=self.registered.copy(),
            points=self.points.copy(),
            has_point=self.has_point.copy(),
            inlier=self.inlier.copy(),
        )

    def restore(self, snapshot: SfmState) -> None:
        """Restore a snapshot, which must not be used afterwards because the state then shares its arrays."""
        self.__dict__.update(snapshot.__dict__)

    def observations_of(self, image_id: int, keypoints: Indices) -> Indices:
        """Find the observations that belong to given keypoints of an image.

        Args:
            image_id: Index of the image.
            keypoints: Keypoint indices. (n,).

        Returns:
            Observation index of each keypoint, -1 for keypoints without a track. (n,).
        """
        rows = np.flatnonzero(self.image_ids == image_id)
        table = np.full(max(keypoints.max(initial=-1), self.keypoint_ids[rows].max(initial=-1)) + 1, -1)
        table[self.keypoint_ids[rows]] = rows
        return table[keypoints]

    @property
    def longer_sides(self) -> Array:
        """Longer side of the images of each camera, in pixels at keypoint detection resolution. (K,)."""
        return 2 * self._largest(self.half_size.max(axis=1))

    @property
    def offset_sigma(self) -> Array:
        """Standard deviation of each principal point's prior. (K,).

        The unit is pixels at keypoint detection resolution.
        """
        return self.intrinsics_prior.principal_point_sigma_ratio * self.longer_sides

    @property
    def corner_radii(self) -> Array:
        """Distance of the image corners from the image center, divided by the focal length. (K,)."""
        return self._largest(np.linalg.norm(self.half_size, axis=1)) / self.focal

    @property
    def distortion_sigma(self) -> Array:
        """Standard deviations of the priors on the distortion coefficients of each camera. (K, 6).

        At one standard deviation, each radial term displaces the image corner equally, and the tangential
        terms displace it by a fraction of that.
        """
        corner, prior = self.corner_radii, self.intrinsics_prior
        share = np.where(self.is_fisheye, prior.fisheye_distortion_sigma, prior.corner_distortion_sigma)
        radial = share[:, None] / corner[:, None] ** np.array([2, 4, 6, 8])
        tangential = prior.tangential_distortion_sigma / (3 * corner[:, None]) * np.ones(2)
        return np.concatenate([radial, tangential], axis=1)

    def _largest(self, values: Array) -> Array:
        """Compute the largest value among the images of each camera. (N,) -> (K,)."""
        largest = np.zeros(len(self.focal))
        np.maximum.at(largest, self.camera_ids, values)
        return largest

    def centers(self) -> Array:
        """Compute the camera centers in world coordinates. (N, 3)."""
        rotation, translation = self.T_camera_world[:, :3, :3], self.T_camera_world[:, :3, 3]
        return -np.einsum("nji,nj->ni", rotation, translation)

    def offsets(self, image_ids: Indices | int) -> Array:
        """Return the principal points of upright images, relative to the image center.

        Args:
            image_ids: Indices of images. (n,) or ().

        Returns:
            Offsets (x, y) in pixels at keypoint detection resolution. (n, 2) or (2,).
        """
        return rotate(self.upright_from_sensor[image_ids], self.offset[self.camera_ids[image_ids]])

    def lenses(self, image_ids: Indices | int) -> LensModel:
        """Return the lenses of upright images.

        Args:
            image_ids: Indices of images. (n,) or ().
        """
        camera = self.camera_ids[image_ids]
        terms = turn_distortion(self.distortion[camera], self.upright_from_sensor[image_ids])
        is_fisheye = self.is_fisheye[camera]
        return LensModel(terms, is_fisheye if is_fisheye.any() else False)

    def rays(self, xy: Array, image_ids: Indices | int) -> Array:
        """Compute the viewing rays of pixels.

        Args:
            xy: Image coordinates relative to the image center, in pixels at keypoint detection resolution.
                (n, 2).
            image_ids: Image of each pixel, or one image for all pixels. (n,) or ().

        Returns:
            Undistorted rays in camera coordinates: points with z = 1 or, for fisheye lenses, unit vectors.
            (n, 3).
        """
        focal = self.focal[self.camera_ids[image_ids], None]
        return unproject(xy - self.offsets(image_ids), focal, self.lenses(image_ids))

    def camera_of(self, image_id: int) -> Camera:
        """Return the intrinsics of an upright image, in pixels at keypoint detection resolution."""
        lens, camera = self.lenses(image_id), self.camera_ids[image_id]
        x, y = self.offsets(image_id).tolist()
        return Camera(float(self.focal[camera]), (x, y), tuple(lens.distortion.tolist()), lens.has_fisheye)

    def errors(self, rows: Indices) -> Array:
        """Compute the reprojection errors of observations.

        Args:
            rows: Indices of observations of triangulated tracks. (n,).

        Returns:
            Errors in pixels at keypoint detection resolution; infinite for points behind the camera. (n,).
        """
        points_camera = transform(
            self.T_camera_world[self.image_ids[rows]], self.points[self.track_ids[rows]]
        )
        return self.projection_errors(points_camera, rows)

    def projection_errors(self, points_camera: Array, rows: Indices) -> Array:
        """Compute the reprojection errors of points in camera coordinates.

        Args:
            points_camera: Points in the camera coordinates of the observing images. (n, 3).
            rows: Index of the observation of each point. (n,).

        Returns:
            Errors in pixels at keypoint detection resolution; infinite for points behind the camera. (n,).
        """
        image_ids = self.image_ids[rows]
        intrinsics = self.focal[self.camera_ids[image_ids]], self.offsets(image_ids), self.lenses(image_ids)
        return project_errors(points_camera, self.xy[rows], *intrinsics)

    def visible_observations(self) -> Indices:
        """Return the indices of observations of triangulated tracks in unregistered images. (n,)."""
        return np.flatnonzero(self.has_point[self.track_ids] & ~self.registered[self.image_ids])

    def noise(self, rows: Indices, min_num_samples: int = 50) -> float:
        """Estimate the ratio of the actual noise of observations to their assumed standard deviation.

        The assumed standard deviation is `self.sigma`, in pixels. The actual noise is estimated from the
        median of the reprojection errors. Tracks with only two observations are skipped: their points adapt
        to the noise, so that only the noise across the epipolar lines remains.

        Args:
            rows: Indices of observations of triangulated tracks. (n,).
            min_num_samples: Minimum number of observations that remain after tracks with only two
                observations are skipped.

        Returns:
            Ratio of the actual to the assumed standard deviation; NaN if there are too few observations.
        """
        length = np.bincount(self.track_ids[rows], minlength=len(self.points))[self.track_ids[rows]]
        rows, length = rows[length >= 3], length[length >= 3]
        if len(rows) < min_num_samples:
            return float("nan")
        errors = self.errors(rows) / self.sigma[rows]
        # A point with n observations leaves 2 n - 3 of 2 n degrees of freedom to the residuals.
        return float(np.median(errors * np.sqrt(2 * length / (2 * length - 3)))) / RAYLEIGH_MEDIAN

    def estimate_noise(self) -> None:
        """Rescale `sigma` so that it agrees with the reprojection errors of the inlier observations.

        If there are too few observations for an estimate, `sigma` does not change.
        """
        noise = self.noise(np.flatnonzero(self.inlier))
        if np.isfinite(noise):
            self.sigma = np.maximum(noise * self.sigma, MIN_SIGMA)

    def rescale(self) -> None:
        """Scale the world so that the median distance of points from the mean camera center becomes ten."""
        if not self.has_point.any():
            return
        middle = self.centers()[self.registered].mean(0)
        distance = float(np.median(np.linalg.norm(self.points[self.has_point] - middle, axis=1)))
        if np.isfinite(distance) and distance > 0:
            self.T_camera_world[:, :3, 3] *= 10 / distance
            self.points *= 10 / distance

    def bundle_adjust(
        self, options: BundleAdjustmentOptions, rows: Mask | None = None, free_images: Mask | None = None
    ) -> BundleResult | None:
        """Bundle-adjust registered images and the points that they observe, in place.

        Args:
            options: Intrinsics to refine, stopping criteria and device.
            rows: Whether to use each observation; outliers are never used. By default all inliers are used.
                (O,).
            free_images: Whether to refine the pose of each image; by default all poses are refined. (N,). If
                all poses are free, the first pose is kept fixed to define the world frame.

        Returns:
            The result; None if there are too few observations.
        """
        used = self.inlier & self.has_point[self.track_ids] & self.registered[self.image_ids]
        used = np.flatnonzero(used if rows is None else used & rows)
        if len(used) < options.min_num_observations:
            return None
        problem = self._bundle_problem(used, free_images, options)
        result = bundle_adjust(problem, options.max_iterations, options.tolerance, options.clear_cost)
        adjusted = result.problem
        self.T_camera_world[np.unique(self.image_ids[used])] = adjusted.T_camera_world.cpu().numpy()
        self.points[np.unique(self.track_ids[used])] = adjusted.points.cpu().numpy()
        intrinsics = adjusted.intrinsics.cpu().numpy()
        self.focal, self.offset = np.exp(intrinsics[:, 0]), intrinsics[:, 1:3]
        self.distortion = intrinsics[:, 3:]
        return result

    def _bundle_problem(
        self, rows: Indices, free_images: Mask | None, options: BundleAdjustmentOptions
    ) -> BundleProblem:
        """Convert the state to a bundle adjustment problem.

        Images and tracks without observations are omitted; the remaining images and tracks are renumbered in
        ascending order.

        Args:
            rows: Indices of the observations to use.
            free_images: Whether to refine the pose of each image; None for all images. (N,).
            options: Intrinsics to refine, and device.
        """
        image_ids, image_numbers = np.unique(self.image_ids[rows], return_inverse=True)
        tracks, track_numbers = np.unique(self.track_ids[rows], return_inverse=True)
        free_poses = np.ones(len(image_ids), bool) if free_images is None else free_images[image_ids]
        if free_poses.all():
            free_poses[0] = False  # fixes the world frame
        num_cameras = len(self.focal)
        refine_focal_length = options.refine_focal_length and not self.fix_focal
        free_intrinsics = np.zeros((num_cameras, 3 + NUM_TERMS), bool)
        free_intrinsics[:, 0] = refine_focal_length
        free_intrinsics[:, 1:3] = np.broadcast_to(options.refine_principal_point, num_cameras)[:, None]
        free_intrinsics[:, 3:] = np.broadcast_to(options.refine_extra_params, (num_cameras, NUM_TERMS))

        def tensor(array: NDArray[Any]) -> torch.Tensor:
            return torch.as_tensor(array, device=options.device)

        return BundleProblem(
            T_camera_world=tensor(self.T_camera_world[image_ids]),
            points=tensor(self.points[tracks]),
            intrinsics=tensor(np.column_stack([np.log(self.focal), self.offset, self.distortion])),
            camera_ids=tensor(self.camera_ids[image_ids]),
            upright_from_sensor=tensor(self.upright_from_sensor[image_ids]),
            image_ids=tensor(image_numbers),
            point_ids=tensor(track_numbers),
            xy=tensor(self.xy[rows]),
            sigma=tensor(self.sigma[rows]),
            free_poses=tensor(free_poses),
            free_intrinsics=tensor(free_intrinsics),
            lens_ids=None if np.array_equal(self.lens_ids, np.arange(num_cameras)) else tensor(self.lens_ids),
            prior_mean=tensor(
                np.column_stack([np.log(self.focal_prior.mean), np.zeros((num_cameras, 2 + NUM_TERMS))])
            ),
            prior_sigma=tensor(
                np.column_stack([self.focal_prior.sigma, *2 * [self.offset_sigma], self.distortion_sigma])
            ),
            is_fisheye=tensor(self.is_fisheye) if self.is_fisheye.any() else None,
        )
