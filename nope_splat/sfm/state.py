"""The scene while it grows: which images have poses, which tracks have points, who agrees with whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.geometry.camera import project_errors
from nope_splat.geometry.projection import unproject
from nope_splat.geometry.rigid import transform
from nope_splat.geometry.robust import RAYLEIGH_MEDIAN
from nope_splat.scene.tracks import Tracks
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem
from nope_splat.sfm.bundle_adjustment.solver import BundleResult, adjust, intrinsics_covariance
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.pose_estimation import PoselibCamera, poselib_camera
from nope_splat.utils.typing import Array, Indices, Mask

LOG_FOCAL_SIGMA = 0.5
"""Standard deviation of the prior on the logarithm of a focal length of which nothing else is known.

Far too weak to matter where the images determine it; it holds the focal length where they do not."""
OFFSET_SIGMA = 0.02
"""Standard deviation of the prior on the principal point offset, as a share of the longer side.

Lenses are centered to about one percent of the sensor; twice that leaves room for stabilized lenses."""
CORNER_SIGMA = 0.05
"""Standard deviation of the prior on each radial term, as the share by which it moves an image's corner.

Lenses of cameras and phones bend the corners by some percent."""
MIN_OBSERVATIONS = 20
"""Fewest observations that are adjusted."""
MIN_NOISE_SAMPLES = 50
"""Fewest observations that tell how noisy observations are."""
MIN_SIGMA = 0.01
"""No observation is believed to be more precise than this, feature pixels."""


class FocalPrior(NamedTuple):
    """What is known of the focal length of each camera before, and apart from, what its tracks tell."""

    mean: Array
    """Feature pixels. (K,)."""
    sigma: Array
    """Standard deviation of the logarithm. (K,)."""


@dataclass
class SfmState:
    """Mutable state of a reconstruction.

    Image positions are in *feature pixels from the image center*: of images scaled to the size at
    which keypoints were found. All thresholds of reconstruction are in these pixels. Each of K cameras took
    some of the images.
    """

    track_ids: Indices
    """Track of each observation, ascending. (O,)."""
    image_ids: Indices
    """Image of each observation. (O,)."""
    keypoint_ids: Indices
    """Keypoint of each observation in its image. (O,)."""
    xy: Array
    """Feature pixels from the image center. (O, 2)."""
    sigma: Array
    """Standard deviation of `xy` per axis, feature pixels; only rough before `estimate_noise`. (O,)."""
    half_size: Array
    """Half the width and height of each image in feature pixels. (N, 2)."""
    camera_ids: Indices
    """Camera of each image. (N,)."""
    focal: Array
    """Focal length of each camera in feature pixels. (K,)."""
    initial_focal: Array
    """Focal lengths before any adjustment. (K,)."""
    focal_prior: FocalPrior
    """What adjustments heed beside the observations."""
    fix_focal: bool
    """Whether the focal lengths stay as they are, because the images do not determine them."""
    offset: Array
    """Principal point minus image center of each camera in feature pixels. (K, 2)."""
    radial: Array
    """Radial distortion of each camera, k1 and k2 (see `SharedPinhole`). (K, 2)."""
    T_camera_world: Array
    """World-to-camera transforms, OpenCV axes. (N, 4, 4)."""
    registered: Mask
    """Images with a pose. (N,)."""
    points: Array
    """World coordinates of the tracks. (T, 3)."""
    has_point: Mask
    """Tracks with a point. (T,)."""
    inlier: Mask
    """Observations in registered images that agree with their track's point. (O,)."""

    @classmethod
    def start(
        cls,
        tracks: Tracks,
        layout: CameraGroups,
        focal: Array,
        fix_focal: bool = False,
        focal_prior: FocalPrior | None = None,
    ) -> SfmState:
        """No poses and no points yet.

        Args:
            tracks: Tracks in full-resolution pixels.
            layout: Sizes and cameras of the images.
            focal: Focal length of each camera in feature pixels. (K,).
            fix_focal: Whether they stay as they are.
            focal_prior: What is known of them; without it they are hardly known, about `focal`.

        Returns:
            The empty scene.
        """
        observations, num_images = tracks.observations, len(layout.sizes)
        return cls(
            track_ids=observations.point_ids,
            image_ids=observations.image_ids,
            keypoint_ids=tracks.keypoint_ids,
            xy=layout.from_center(observations.xy, observations.image_ids),
            sigma=tracks.noise.copy(),
            half_size=layout.sizes / (2 * layout.pixel_sizes[:, None]),
            camera_ids=layout.camera_ids,
            focal=focal,
            initial_focal=focal,
            focal_prior=focal_prior or FocalPrior(focal, np.full(len(focal), LOG_FOCAL_SIGMA)),
            fix_focal=fix_focal,
            offset=np.zeros((len(focal), 2)),
            radial=np.zeros((len(focal), 2)),
            T_camera_world=np.tile(np.eye(4), (num_images, 1, 1)),
            registered=np.zeros(num_images, bool),
            points=np.zeros((len(tracks), 3)),
            has_point=np.zeros(len(tracks), bool),
            inlier=np.zeros(len(observations), bool),
        )

    def snapshot(self) -> SfmState:
        """A copy of everything that changes, to return to when an attempt fails."""
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
        """Go back to a snapshot, which must not be used afterwards."""
        self.__dict__.update(snapshot.__dict__)

    def rows_of(self, image_id: int, keypoints: Indices) -> Indices:
        """Observations of the given keypoints of one image; -1 where a keypoint has no track. (n,)."""
        rows = np.flatnonzero(self.image_ids == image_id)
        table = np.full(max(keypoints.max(initial=-1), self.keypoint_ids[rows].max(initial=-1)) + 1, -1)
        table[self.keypoint_ids[rows]] = rows
        return table[keypoints]

    @property
    def longer_sides(self) -> Array:
        """Longer side of the images of each camera, feature pixels. (K,)."""
        return 2 * self._largest(self.half_size.max(axis=1))

    @property
    def offset_sigma(self) -> Array:
        """Standard deviation of the prior on each camera's principal point offset, feature pixels. (K,)."""
        return OFFSET_SIGMA * self.longer_sides

    @property
    def radial_sigma(self) -> Array:
        """Standard deviations of the prior on k1 and k2: alike in their effect at the corner. (K, 2)."""
        corner = self._largest(np.linalg.norm(self.half_size, axis=1)) / self.focal
        return CORNER_SIGMA / np.stack([corner**2, corner**4], axis=1)

    def _largest(self, values: Array) -> Array:
        """Largest value among the images of each camera. (N,) -> (K,)."""
        largest = np.zeros(len(self.focal))
        np.maximum.at(largest, self.camera_ids, values)
        return largest

    def centers(self) -> Array:
        """Camera centers in world coordinates. (N, 3)."""
        rotation, translation = self.T_camera_world[:, :3, :3], self.T_camera_world[:, :3, 3]
        return -np.einsum("nji,nj->ni", rotation, translation)

    def rays(self, xy: Array, image_ids: Indices | int) -> Array:
        """Directions at depth one through image positions, in camera coordinates.

        Args:
            xy: Feature pixels from the image center. (n, 2).
            image_ids: Image of each position, or of all. (n,) or ().

        Returns:
            Camera coordinates. (n, 3).
        """
        camera = self.camera_ids[image_ids]
        return unproject(xy - self.offset[camera], self.focal[camera, None], self.radial[camera])

    def camera_model(self, image_id: int) -> PoselibCamera:
        """The camera of an image as poselib wants it."""
        camera = self.camera_ids[image_id]
        return poselib_camera(float(self.focal[camera]), self.offset[camera], self.radial[camera])

    def errors(self, rows: Indices) -> Array:
        """Reprojection errors of observations of tracks with points.

        Args:
            rows: Observation indices. (n,).

        Returns:
            Feature pixels, infinite behind the camera. (n,).
        """
        in_camera = transform(self.T_camera_world[self.image_ids[rows]], self.points[self.track_ids[rows]])
        return self.projection_errors(in_camera, rows)

    def projection_errors(self, in_camera: Array, rows: Indices) -> Array:
        """Reprojection errors of observations of points in camera coordinates, infinite behind.

        Args:
            in_camera: Points in the coordinates of the observing cameras. (n, 3).
            rows: Observation indices. (n,).

        Returns:
            Feature pixels. (n,).
        """
        camera = self.camera_ids[self.image_ids[rows]]
        return project_errors(
            in_camera, self.xy[rows], self.focal[camera], self.offset[camera], self.radial[camera]
        )

    def visible_points(self) -> Indices:
        """Observations in unregistered images of tracks that have points. (n,)."""
        return np.flatnonzero(self.has_point[self.track_ids] & ~self.registered[self.image_ids])

    def noise(self, rows: Indices) -> float:
        """Noise of observations, as a multiple of their `sigma`, from the median of their errors.

        The median hardly heeds outliers. Observations of tracks with two views tell too little, since points
        follow them in one of two dimensions, and are left out.

        Args:
            rows: Observation indices of tracks with points. (n,).

        Returns:
            The multiple; NaN where fewer than `MIN_NOISE_SAMPLES` observations could tell.
        """
        length = np.bincount(self.track_ids[rows], minlength=len(self.points))[self.track_ids[rows]]
        rows, length = rows[length >= 3], length[length >= 3]
        if len(rows) < MIN_NOISE_SAMPLES:
            return float("nan")
        errors = self.errors(rows) / self.sigma[rows]
        # A point takes three of the two degrees of freedom that each of its observations brings.
        return float(np.median(errors * np.sqrt(2 * length / (2 * length - 3)))) / RAYLEIGH_MEDIAN

    def estimate_noise(self) -> None:
        """Bring `sigma` in line with the errors of the observations that agree with their points."""
        noise = self.noise(np.flatnonzero(self.inlier))
        if np.isfinite(noise):
            self.sigma = np.maximum(noise * self.sigma, MIN_SIGMA)

    def rescale(self) -> None:
        """Bring the median distance of the points from the cameras to ten, which keeps numbers tame."""
        if not self.has_point.any():
            return
        middle = self.centers()[self.registered].mean(0)
        distance = float(np.median(np.linalg.norm(self.points[self.has_point] - middle, axis=1)))
        if np.isfinite(distance) and distance > 0:
            self.T_camera_world[:, :3, 3] *= 10 / distance
            self.points *= 10 / distance

    def adjust(
        self, options: BundleAdjustmentOptions, rows: Mask | None = None, free_images: Mask | None = None
    ) -> BundleResult | None:
        """Bundle-adjust registered images and the points they see, in place.

        Args:
            options: What may change, when to stop and where to run.
            rows: Inlier observations to use; all of them by default. (O,).
            free_images: Registered images that may move; all of them by default. (N,).

        Returns:
            The result, or None where there are too few observations to adjust anything.
        """
        used = self.inlier & self.has_point[self.track_ids] & self.registered[self.image_ids]
        used = np.flatnonzero(used if rows is None else used & rows)
        if len(used) < MIN_OBSERVATIONS:
            return None
        problem = self._bundle_problem(used, free_images, options)
        result = adjust(problem, options.max_iterations, options.tolerance)
        adjusted = result.problem
        self.T_camera_world[np.unique(self.image_ids[used])] = adjusted.T_camera_world.cpu().numpy()
        self.points[np.unique(self.track_ids[used])] = adjusted.points.cpu().numpy()
        intrinsics = adjusted.intrinsics.cpu().numpy()
        self.focal, self.offset, self.radial = np.exp(intrinsics[:, 0]), intrinsics[:, 1:3], intrinsics[:, 3:]
        return result

    def _bundle_problem(
        self, rows: Indices, free_images: Mask | None, options: BundleAdjustmentOptions
    ) -> BundleProblem:
        """Variables and observations of a bundle adjustment.

        Images and tracks without observations are left out, so that those with some are numbered anew, in
        ascending order.
        """
        image_ids, image_numbers = np.unique(self.image_ids[rows], return_inverse=True)
        tracks, track_numbers = np.unique(self.track_ids[rows], return_inverse=True)
        free_poses = np.ones(len(image_ids), bool) if free_images is None else free_images[image_ids]
        if free_poses.all():
            free_poses[0] = False  # fixes the world frame
        num_cameras = len(self.focal)
        free_focal, free_offset, free_radial = (
            np.broadcast_to(flag, num_cameras)
            for flag in (
                options.refine_focal_length and not self.fix_focal,
                options.refine_principal_point,
                options.refine_extra_params,
            )
        )

        def tensor(array: NDArray[Any]) -> torch.Tensor:
            return torch.as_tensor(array, device=options.device)

        return BundleProblem(
            T_camera_world=tensor(self.T_camera_world[image_ids]),
            points=tensor(self.points[tracks]),
            intrinsics=tensor(np.column_stack([np.log(self.focal), self.offset, self.radial])),
            camera_ids=tensor(self.camera_ids[image_ids]),
            image_ids=tensor(image_numbers),
            point_ids=tensor(track_numbers),
            xy=tensor(self.xy[rows]),
            sigma=tensor(self.sigma[rows]),
            free_poses=tensor(free_poses),
            free_intrinsics=tensor(np.column_stack([free_focal, *2 * [free_offset], *2 * [free_radial]])),
            prior_mean=tensor(np.column_stack([np.log(self.focal_prior.mean), np.zeros((num_cameras, 4))])),
            prior_sigma=tensor(
                np.column_stack([self.focal_prior.sigma, *2 * [self.offset_sigma], self.radial_sigma])
            ),
        )

    def focal_uncertainty(self, free_offset: Mask, free_radial: Mask, device: str = "cpu") -> float:
        """Standard deviation of the focal length as a share of it, from the observations as they agree now.

        Where there are several cameras, of the one that is least certain and has an image with a pose.

        Args:
            free_offset: Of which cameras the principal point is unknown, too. (K,).
            free_radial: Of which cameras the radial distortion is unknown, too. (K,).
            device: Torch device.

        Returns:
            The share; zero where the focal length is held, infinite where the observations fix nothing.
        """
        result = self.adjust(
            BundleAdjustmentOptions(
                refine_principal_point=free_offset,
                refine_extra_params=free_radial,
                max_iterations=0,
                device=device,
            )
        )
        covariance = None if result is None else intrinsics_covariance(result.problem)
        if result is None or covariance is None:
            return float("inf")
        variances = covariance.diagonal().cpu().numpy().reshape(len(self.focal), -1)[:, 0]
        return result.noise * float(variances[self.camera_ids[self.registered]].max()) ** 0.5
