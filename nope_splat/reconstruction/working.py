"""The scene while it grows: which photographs have poses, which tracks have points, who agrees with whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.camera import distort, undistort
from nope_splat.tracks import Tracks

from .bundle import BundleResult, adjust, intrinsics_covariance
from .bundle_problem import MIN_DEPTH, BundleProblem

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

LOG_FOCAL_SIGMA = 0.5
"""Standard deviation of the prior on the logarithm of the focal length.

Far too weak to matter where the photographs determine it; it holds the focal length where they do not."""
OFFSET_SIGMA = 0.02
"""Standard deviation of the prior on the principal point offset, as a share of the longer side.

Lenses are centred to about one percent of the sensor; twice that leaves room for stabilised lenses."""
CORNER_SIGMA = 0.05
"""Standard deviation of the prior on each radial term, as the share by which it moves a photograph's corner.

Lenses of cameras and phones bend the corners by some percent."""
MIN_NOISE_SAMPLES = 50
"""Fewest observations that tell how noisy observations are."""
MIN_SIGMA = 0.01
"""No observation is believed to be more precise than this, feature pixels."""
RAYLEIGH_MEDIAN = (2 * np.log(2)) ** 0.5
"""Median length of a vector of two Gaussian coordinates of unit variance."""


@dataclass
class WorkingScene:
    """Mutable state of a reconstruction.

    Image positions are in *feature pixels from the image centre*: of photographs scaled to the size at
    which keypoints were found. All thresholds of reconstruction are in these pixels.
    """

    track_ids: Indices
    """Track of each observation, ascending. (O,)."""
    photo_ids: Indices
    """Photograph of each observation. (O,)."""
    keypoint_ids: Indices
    """Keypoint of each observation in its photograph. (O,)."""
    xy: Array
    """Feature pixels from the image centre. (O, 2)."""
    sigma: Array
    """Standard deviation of `xy` per axis, feature pixels; only rough before `estimate_noise`. (O,)."""
    half_size: Array
    """Half the width and height of each photograph in feature pixels. (N, 2)."""
    focal: float
    """Shared focal length in feature pixels."""
    initial_focal: float
    """Focal length before any adjustment, about which the prior on it is centred."""
    hold_focal: bool
    """Whether the focal length stays as it is, because the photographs do not determine it."""
    offset: Array
    """Shared principal point minus image centre in feature pixels. (2,)."""
    radial: Array
    """Shared radial distortion, k1 and k2 (see `SharedPinhole`). (2,)."""
    T_camera_world: Array
    """World-to-camera transforms, OpenCV axes. (N, 4, 4)."""
    registered: Mask
    """Photographs with a pose. (N,)."""
    points: Array
    """World coordinates of the tracks. (T, 3)."""
    has_point: Mask
    """Tracks with a point. (T,)."""
    inlier: Mask
    """Observations in registered photographs that agree with their track's point. (O,)."""

    @classmethod
    def start(
        cls, tracks: Tracks, sizes: Indices, scale: float, focal: float, hold_focal: bool = False
    ) -> WorkingScene:
        """No poses and no points yet.

        Args:
            tracks: Tracks in full-resolution pixels.
            sizes: Width and height of the photographs at full resolution. (N, 2).
            scale: Feature pixels per full-resolution pixel.
            focal: Focal length in feature pixels.
            hold_focal: Whether it stays as it is.

        Returns:
            The empty scene.
        """
        observations = tracks.observations
        return cls(
            track_ids=observations.point_ids,
            photo_ids=observations.photo_ids,
            keypoint_ids=tracks.keypoint_ids,
            xy=(observations.xy - sizes[observations.photo_ids] / 2) * scale,
            sigma=tracks.noise.copy(),
            half_size=sizes * (scale / 2),
            focal=focal,
            initial_focal=focal,
            hold_focal=hold_focal,
            offset=np.zeros(2),
            radial=np.zeros(2),
            T_camera_world=np.tile(np.eye(4), (len(sizes), 1, 1)),
            registered=np.zeros(len(sizes), bool),
            points=np.zeros((len(tracks), 3)),
            has_point=np.zeros(len(tracks), bool),
            inlier=np.zeros(len(observations), bool),
        )

    def snapshot(self) -> WorkingScene:
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

    def restore(self, snapshot: WorkingScene) -> None:
        """Go back to a snapshot, which must not be used afterwards."""
        self.__dict__.update(snapshot.__dict__)

    def rows_of(self, photo: int, keypoints: Indices) -> Indices:
        """Observations of the given keypoints of one photograph; -1 where a keypoint has no track. (n,)."""
        rows = np.flatnonzero(self.photo_ids == photo)
        table = np.full(max(keypoints.max(initial=-1), self.keypoint_ids[rows].max(initial=-1)) + 1, -1)
        table[self.keypoint_ids[rows]] = rows
        return table[keypoints]

    @property
    def offset_sigma(self) -> float:
        """Standard deviation of the prior on the principal point offset, feature pixels."""
        return OFFSET_SIGMA * 2 * float(self.half_size.max())

    @property
    def corner(self) -> float:
        """Distance of the corner of a photograph from its centre on the plane at depth one."""
        return float(np.linalg.norm(self.half_size, axis=1).max()) / self.focal

    @property
    def radial_sigma(self) -> tuple[float, float]:
        """Standard deviations of the prior on the radial distortion: alike in their effect at the corner."""
        return CORNER_SIGMA / self.corner**2, CORNER_SIGMA / self.corner**4

    def centers(self) -> Array:
        """Camera centres in world coordinates. (N, 3)."""
        rotation, translation = self.T_camera_world[:, :3, :3], self.T_camera_world[:, :3, 3]
        return -np.einsum("nji,nj->ni", rotation, translation)

    def rays(self, xy: Array) -> Array:
        """Directions at depth one through image positions, in camera coordinates. (n, 2) -> (n, 3)."""
        plane = undistort((xy - self.offset) / self.focal, self.radial)
        return np.concatenate([plane, np.ones((len(xy), 1))], axis=1)

    def camera_model(self) -> dict[str, object]:
        """The shared camera as poselib wants it."""
        params = [self.focal, *self.offset, *self.radial]
        return {"model": "RADIAL", "width": 0, "height": 0, "params": params}

    def errors(self, rows: Indices) -> Array:
        """Reprojection errors of observations of tracks with points.

        Args:
            rows: Observation indices. (n,).

        Returns:
            Feature pixels, infinite behind the camera. (n,).
        """
        in_camera = transform(self.T_camera_world[self.photo_ids[rows]], self.points[self.track_ids[rows]])
        return self.projection_errors(in_camera, self.xy[rows])

    def projection_errors(self, in_camera: Array, xy: Array) -> Array:
        """Reprojection errors of points in camera coordinates, infinite behind. (n, 3), (n, 2) -> (n,)."""
        return project_errors(in_camera, xy, self.focal, self.offset, self.radial)

    def visible_points(self) -> Indices:
        """Observations in unregistered photographs of tracks that have points. (n,)."""
        return np.flatnonzero(self.has_point[self.track_ids] & ~self.registered[self.photo_ids])

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
        self,
        rows: Mask | None = None,
        free_photos: Mask | None = None,
        free_focal: bool = True,
        free_offset: bool = False,
        free_radial: bool = False,
        max_iterations: int = 25,
        tolerance: float = 1e-5,
        device: str = "cpu",
    ) -> BundleResult | None:
        """Bundle-adjust registered photographs and the points they see, in place.

        Args:
            rows: Inlier observations to use; all of them by default. (O,).
            free_photos: Registered photographs that may move; all of them by default. (N,).
            free_focal: Whether the focal length may change, unless it is held.
            free_offset: Whether the principal point may change.
            free_radial: Whether the radial distortion may change.
            max_iterations: Largest number of steps.
            tolerance: Relative decrease of the cost at which to stop.
            device: Torch device.

        Returns:
            The result, or None where there are too few observations to adjust anything.
        """
        used = self.inlier & self.has_point[self.track_ids] & self.registered[self.photo_ids]
        used = np.flatnonzero(used if rows is None else used & rows)
        if len(used) < 20:
            return None
        photos, camera_ids = np.unique(self.photo_ids[used], return_inverse=True)
        tracks, point_ids = np.unique(self.track_ids[used], return_inverse=True)
        free = np.ones(len(photos), bool) if free_photos is None else free_photos[photos]
        if free.all():
            free[0] = False

        def tensor(array: object) -> torch.Tensor:
            return torch.as_tensor(np.asarray(array), device=device)

        result = adjust(
            BundleProblem(
                T_camera_world=tensor(self.T_camera_world[photos]),
                points=tensor(self.points[tracks]),
                intrinsics=tensor([np.log(self.focal), *self.offset, *self.radial]),
                camera_ids=tensor(camera_ids),
                point_ids=tensor(point_ids),
                xy=tensor(self.xy[used]),
                sigma=tensor(self.sigma[used]),
                free_cameras=tensor(free),
                free_intrinsics=tensor(
                    [free_focal and not self.hold_focal, *2 * [free_offset], *2 * [free_radial]]
                ),
                prior_mean=tensor([np.log(self.initial_focal), 0.0, 0.0, 0.0, 0.0]),
                prior_sigma=tensor([LOG_FOCAL_SIGMA, *2 * [self.offset_sigma], *self.radial_sigma]),
            ),
            max_iterations,
            tolerance,
        )
        adjusted = result.problem
        self.T_camera_world[photos] = adjusted.T_camera_world.cpu().numpy()
        self.points[tracks] = adjusted.points.cpu().numpy()
        intrinsics = adjusted.intrinsics.cpu().numpy()
        self.focal, self.offset, self.radial = float(np.exp(intrinsics[0])), intrinsics[1:3], intrinsics[3:]
        return result

    def focal_uncertainty(self, free_offset: bool, free_radial: bool, device: str = "cpu") -> float:
        """Standard deviation of the focal length as a share of it, from the observations as they agree now.

        Args:
            free_offset: Whether the principal point is unknown, too.
            free_radial: Whether the radial distortion is unknown, too.
            device: Torch device.

        Returns:
            The share; zero where the focal length is held, infinite where the observations fix nothing.
        """
        result = self.adjust(
            free_offset=free_offset, free_radial=free_radial, max_iterations=0, device=device
        )
        covariance = None if result is None else intrinsics_covariance(result.problem)
        if result is None or covariance is None:
            return float("inf")
        return result.noise * float(covariance[0, 0]) ** 0.5


def transform(transforms: Array, points: Array) -> Array:
    """Apply rigid transforms to points. (..., 4, 4), (..., 3) -> (..., 3)."""
    return np.einsum("...ij,...j->...i", transforms[..., :3, :3], points) + transforms[..., :3, 3]


def invert(transforms: Array) -> Array:
    """Inverse of rigid transforms. (..., 4, 4) -> (..., 4, 4)."""
    inverse = np.zeros_like(transforms)
    inverse[..., :3, :3] = np.swapaxes(transforms[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -np.einsum("...ji,...j->...i", transforms[..., :3, :3], transforms[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def rigid(rotation: Array, translation: Array) -> Array:
    """Rigid transform from its parts. (3, 3), (3,) -> (4, 4)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def project_errors(
    in_camera: Array, xy: Array, focal: float, offset: Array, radial: Sequence[float] | Array = (0.0, 0.0)
) -> Array:
    """Reprojection errors of points in camera coordinates, infinite behind. (n, 3), (n, 2) -> (n,)."""
    front = in_camera[:, 2] > MIN_DEPTH
    depth = np.where(front, in_camera[:, 2], 1.0)
    plane = distort(in_camera[:, :2] / depth[:, None], radial)
    error = np.linalg.norm(focal * plane + offset - xy, axis=1)
    return np.where(front, error, np.inf)
