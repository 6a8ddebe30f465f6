"""Camera optimizer: a pose correction per training image and a focal length per camera.

Optionally, principal point and distortion of each camera are optimized too (`LearnedLens`).

Poses in this module have nerfstudio's OpenGL axes, because nerfstudio accesses them (see `geometry.axes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.lie_groups import exp_map_SE3, exp_map_SO3xR3
from nerfstudio.utils import poses as pose_utils
from torch import Tensor, nn
from tyro.conf import OmitSubcommandPrefixes, Suppress

from nope_splat.geometry.axes import switch_axes
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import NUM_TERMS
from nope_splat.geometry.rigid import left_jacobian, rotation_log
from nope_splat.plugin.camera_intrinsics import distortion_terms
from nope_splat.plugin.camera_refinement import CameraRefinement, GradientRefinement, JointRefinement
from nope_splat.plugin.learned_lens import LearnedLens
from nope_splat.splatting.lens import Lens

LENS_METRICS = ("principal_point_x_px", "principal_point_y_px", "distortion_k1", "distortion_k2")
"""Names of the metrics that are logged if principal points or distortion are optimized. The principal point
is relative to the image center, in full-resolution pixels."""


def world_to_camera(camera_to_world: Tensor) -> Tensor:
    """Convert nerfstudio's camera-to-world transforms to world-to-camera transforms with OpenCV axes.

    Args:
        camera_to_world: Camera-to-world transforms, OpenGL axes. (..., 3, 4).

    Returns:
        World-to-camera transforms, OpenCV axes. (..., 4, 4).
    """
    return pose_utils.to4x4(pose_utils.inverse(switch_axes(camera_to_world)))


@dataclass
class NopeCameraOptimizerConfig(CameraOptimizerConfig):
    """Options of camera optimization during training."""

    _target: type = field(default_factory=lambda: NopeCameraOptimizer)
    optimize_focal: bool = True
    """Whether to optimize the focal length of each camera. Poses are optimized unless the option mode is
    "off"."""
    optimize_principal_point: bool = False
    """Whether to optimize the principal point of each camera. If the photos of a camera were rotated upright
    by different angles, its principal point stays fixed."""
    optimize_distortion: bool = False
    """Whether to optimize the distortion (coefficients k1 and k2) of each camera, and to render with it.

    If set, structure from motion also estimates distortion, and training starts from this estimate. If this
    option or optimize-principal-point is set, training uses the original images instead of undistorted
    images."""
    refinement: OmitSubcommandPrefixes[CameraRefinement] = field(default_factory=JointRefinement)
    """Method of camera refinement: joint refinement at intervals (Levenberg-Marquardt), or gradient steps in
    every iteration (Adam)."""
    # nerfstudio's penalties are unused, because the track losses constrain the cameras better.
    trans_l2_penalty: Suppress[float] = 0.0
    """Unused penalty of nerfstudio."""
    rot_l2_penalty: Suppress[float] = 0.0
    """Unused penalty of nerfstudio."""

    @property
    def by_gradient(self) -> bool:
        """True if Adam optimizes the cameras in every iteration, False if joint refinement optimizes them."""
        return isinstance(self.refinement, GradientRefinement)

    def learns_lens(self) -> bool:
        """Check whether principal points or distortion are optimized."""
        return self.optimize_principal_point or self.optimize_distortion


class NopeCameraOptimizer(CameraOptimizer):
    """Camera optimizer whose parameters are corrections of the poses and focal lengths of the reconstruction.

    Camera-to-world poses are `base_poses @ exp(pose_adjustment)`, and focal lengths are
    `base_focal * exp(log_focal)`. The V training views share K sets of intrinsics. `base_poses` (V, 3, 4) and
    `base_focal` (K,) come from the reconstruction; they are buffers, so that a checkpoint contains complete
    cameras.

    Args:
        config: Options of camera optimization.
        num_cameras: Number V of training views (nerfstudio has one camera per view).
        device: Initial device of the parameters.
        intrinsics_ids: Index of the intrinsics of each view (V,); None if all views use the first set.
        num_intrinsics: Number K of sets of intrinsics.
        is_fisheye: Whether the projection of each set of intrinsics is equidistant instead of perspective
            (K,), bool; None if none is.
    """

    config: NopeCameraOptimizerConfig
    base_poses: Tensor
    """Camera-to-world transforms of the training views in the reconstruction, OpenGL axes. (V, 3, 4)."""
    base_focal: Tensor
    """Focal length of each set of intrinsics in the reconstruction, in full-resolution pixels. (K,)."""
    intrinsics_ids: Tensor
    """Index of the intrinsics of each training view, 0 to K - 1. (V,)."""
    is_fisheye: Tensor
    """Whether the projection of each set of intrinsics is equidistant instead of perspective. (K,), bool."""

    def __init__(
        self,
        config: NopeCameraOptimizerConfig,
        num_cameras: int,
        device: torch.device | str,
        intrinsics_ids: Tensor | None = None,
        num_intrinsics: int = 1,
        is_fisheye: Tensor | None = None,
        **kwargs,
    ) -> None:
        super().__init__(config, num_cameras, device, **kwargs)
        if intrinsics_ids is None:
            intrinsics_ids = torch.zeros(num_cameras, dtype=torch.int64, device=device)
        self.log_focal = nn.Parameter(torch.zeros(num_intrinsics, device=device))
        self.register_buffer("base_poses", torch.eye(4, device=device)[:3].repeat(num_cameras, 1, 1))
        self.register_buffer("base_focal", torch.ones(num_intrinsics, device=device))
        self.register_buffer("intrinsics_ids", intrinsics_ids.to(device))
        flags = [False] * num_intrinsics if is_fisheye is None else is_fisheye.tolist()
        self.has_fisheye, self._same_projection = any(flags), len(set(flags)) == 1
        # Not in checkpoints, since the projections are those of the reconstruction.
        self.register_buffer("is_fisheye", torch.tensor(flags, device=device), persistent=False)
        self.learned_lens = None
        if config.learns_lens():
            learns = config.optimize_principal_point, config.optimize_distortion
            self.learned_lens = LearnedLens(num_intrinsics, *learns, config.by_gradient, device)
        self.last_adjustment: dict[str, float] = {}

    @torch.no_grad()
    def set_base(self, poses: Tensor, focal: Tensor | float) -> None:
        """Set the poses and focal lengths of the reconstruction, to which the corrections are relative.

        Args:
            poses: Camera-to-world transforms of the training views, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in full-resolution pixels: (K,), or a number for all cameras.
        """
        self.base_poses.copy_(poses)
        self.base_focal.copy_(torch.as_tensor(focal))

    @torch.no_grad()
    def set_cameras(self, poses: Tensor, focal: Tensor, lens: Lens | None = None) -> None:
        """Set the corrections so that the cameras have the given poses and intrinsics.

        Parameters that the configuration does not optimize are not changed.

        Args:
            poses: Camera-to-world transforms of the training views, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in full-resolution pixels. (K,).
            lens: Principal point shifts (x, y) relative to the reconstruction, in full-resolution pixels
                (K, 2), and distortion coefficients (K, 6); None to leave both unchanged.
        """
        if self.learned_lens is not None and lens is not None:
            self.learned_lens.set_lens(lens)
        if self.config.mode != "off":
            base = pose_utils.inverse(self.base_poses.double())
            motion = pose_utils.multiply(base, poses.double())
            self.pose_adjustment.copy_(_logarithm(motion, self.config.mode))
        if self.config.optimize_focal:
            self.log_focal.copy_((focal / self.base_focal).log())

    def forward(self, indices: Tensor) -> Tensor:
        """Compute the pose corrections of training views.

        Args:
            indices: Indices of the training views. (B,).

        Returns:
            Transforms from the optimized camera frame to the camera frame of the reconstruction, OpenGL axes.
            (B, 3, 4).
        """
        return self._pose_corrections(indices.to(self.base_poses.device))

    def _pose_corrections(self, views: Tensor | slice) -> Tensor:
        """Compute the pose corrections of training views (B, 3, 4); identity transforms if mode is "off".

        `views` are the indices of the training views (B,), or a slice, which avoids a GPU synchronization.
        """
        if self.config.mode == "off":
            rows = self.base_poses[views]
            return torch.eye(4, device=rows.device, dtype=rows.dtype)[:3].expand_as(rows)
        exponential = exp_map_SE3 if self.config.mode == "SE3" else exp_map_SO3xR3
        return exponential(self.pose_adjustment[views])

    def poses(self) -> Tensor:
        """Compute the optimized camera-to-world transforms (OpenGL axes) of all training views. (V, 3, 4)."""
        return pose_utils.multiply(self.base_poses, self._pose_corrections(slice(None)))

    def focal(self) -> Tensor:
        """Compute the optimized focal length of each set of intrinsics, in full-resolution pixels. (K,)."""
        return self.base_focal * self.log_focal.exp()

    def view_focals(self) -> Tensor:
        """Compute the optimized focal length of each training view, in full-resolution pixels. (V,)."""
        return self.focal()[self.intrinsics_ids]

    def apply_to_camera(self, camera: Cameras) -> Tensor:
        """Return the optimized pose of a training view, or the unchanged pose of any other camera.

        Args:
            camera: A single camera. If its metadata contain nerfstudio's `cam_idx`, it is the training view
                with this index.

        Returns:
            Camera-to-world transform, OpenGL axes. (1, 3, 4).
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return camera.camera_to_worlds
        view = int(camera.metadata["cam_idx"])
        motion = self._pose_corrections(slice(view, view + 1))
        return pose_utils.multiply(self.base_poses[view : view + 1], motion).to(camera.device)

    def lens(self) -> Lens | None:
        """Return principal point shift and distortion of each set of intrinsics; None if both are fixed.

        Returns:
            Shifts (x, y) relative to the reconstruction, in full-resolution pixels (K, 2), distortion
            coefficients (K, 6), and projections.
        """
        if self.learned_lens is None:
            return None
        return self.learned_lens.lens()._replace(is_fisheye=self._projections())

    def view_lens(self) -> Lens | None:
        """Return principal point shift, distortion and projection of each training view.

        Returns:
            Shifts (x, y) relative to the reconstruction, in full-resolution pixels (V, 2), distortion
            coefficients (V, 6), and projections. None if shift and distortion are fixed, and all projections
            are perspective.
        """
        lens = self.lens()
        if lens is None and self.has_fisheye:
            zeros = self.base_focal.new_zeros(len(self.base_focal), 2 + NUM_TERMS)
            lens = Lens(zeros[:, :2], zeros[:, 2:], self._projections())
        return None if lens is None else lens.select(self.intrinsics_ids)

    def _projections(self) -> Tensor | bool:
        """Return whether projections are equidistant: per set of intrinsics (K,), or one value for all."""
        return self.has_fisheye if self._same_projection else self.is_fisheye

    def apply_to_intrinsics(self, camera: Cameras, K: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the optimized intrinsics of a training view, or the unchanged ones of any other camera.

        Args:
            camera: A single camera. If its metadata contain nerfstudio's `cam_idx`, it is the training view
                with this index.
            K: Intrinsic matrix of the camera before optimization, in pixels of any resolution. (1, 3, 3).

        Returns:
            Intrinsic matrix at the resolution of `K` (1, 3, 3), and distortion coefficients (6,). For
            training views, the distortion is None if no camera has learned distortion; for other cameras, it
            is the metadata entry `distortion`, or None if there is no such entry.
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return K, distortion_terms(camera)
        view = int(camera.metadata["cam_idx"])
        number = self.intrinsics_ids[view : view + 1]
        adjusted, lens = K.clone(), self.lens()
        adjusted[:, :2, :2] *= self.log_focal[number].exp()  # the off-diagonal entries are zero
        if lens is None or self.learned_lens is None:
            return adjusted, None
        shift = lens.shift[number] * K.diagonal(dim1=1, dim2=2)[:, :2]
        adjusted[:, :2, 2] += shift / self.base_focal[number]
        return adjusted, lens.distortion[number][0] if self.learned_lens.has_distortion else None

    def cameras(self, start: Sequence[Camera]) -> tuple[Camera, ...]:
        """Return the cameras of the reconstruction with optimized intrinsics.

        Args:
            start: The K cameras of the reconstruction.

        Returns:
            K cameras, in full-resolution pixels.
        """
        focals = self.focal().tolist()
        cameras = tuple(replace(camera, focal=focal) for camera, focal in zip(start, focals, strict=True))
        return cameras if self.learned_lens is None else self.learned_lens.cameras(cameras)

    def get_param_groups(self, param_groups: dict) -> None:
        """Add the camera parameters that Adam optimizes to nerfstudio's parameter groups.

        Args:
            param_groups: Parameters by group name, updated in place; unchanged with joint refinement.
        """
        if not self.config.by_gradient:
            return
        if self.config.mode != "off":
            param_groups["camera_opt"] = [self.pose_adjustment]
        if self.config.optimize_focal:
            param_groups["focal_opt"] = [self.log_focal]
        if self.learned_lens is not None:
            param_groups |= self.learned_lens.param_groups()

    def refinement_iterations(self, num_iterations: int, few_tracks: bool = False) -> tuple[int, ...]:
        """Return the training iterations after which joint refinement runs.

        Args:
            num_iterations: Total number of training iterations.
            few_tracks: Whether images have few track observations (see `has_few_tracks`).

        Returns:
            Iterations in increasing order; empty if no camera parameter is optimized, if Adam optimizes the
            cameras, or if refinement would start after training.
        """
        refinement = self.config.refinement
        frozen = self.config.mode == "off" and not self.config.optimize_focal and self.learned_lens is None
        if frozen or not isinstance(refinement, JointRefinement):
            return ()
        return refinement.iterations(num_iterations, few_tracks)

    def get_loss_dict(self, loss_dict: dict) -> None:
        """Do nothing, because track losses replace nerfstudio's penalties on pose corrections."""

    @torch.no_grad()
    def get_metrics_dict(self, metrics_dict: dict) -> None:
        """Add the metrics of the cameras to a dictionary of metrics.

        The metrics are:

        - Focal length (full-resolution pixels) and its change relative to the reconstruction (percent).
        - Principal point (full-resolution pixels from the image center) and distortion, if at least one of
          the two is optimized.
        - Mean and maximum rotation (degrees) and translation (world units) of the pose corrections, if poses
          are optimized.
        - Statistics of the last joint refinement, if there was one.

        With several cameras, each metric of intrinsics is split into one entry per camera: `name/1`, `name/2`
        and so on.

        Args:
            metrics_dict: Metrics by name, updated in place.
        """
        metrics_dict |= self.last_adjustment
        metrics_dict |= _by_camera("focal_px", self.focal())
        metrics_dict |= _by_camera("focal_change_percent", 100 * torch.expm1(self.log_focal))
        if self.learned_lens is not None:
            lens = self.learned_lens.lens()
            values = torch.cat([self.learned_lens.offset + lens.shift, lens.distortion[:, :2]], 1)
            for name, value in zip(LENS_METRICS, values.unbind(1), strict=True):
                metrics_dict |= _by_camera(name, value)
        if self.config.mode != "off":
            translation, rotation = self.pose_adjustment.split(3, dim=-1)
            degrees = torch.rad2deg(rotation.norm(dim=-1))
            metrics_dict["camera_rotation_mean_deg"] = degrees.mean()
            metrics_dict["camera_rotation_max_deg"] = degrees.max()
            metrics_dict["camera_translation_mean"] = translation.norm(dim=-1).mean()
            metrics_dict["camera_translation_max"] = translation.norm(dim=-1).max()


def _by_camera(name: str, values: Tensor) -> dict[str, Tensor]:
    """Split the values (K,) of a metric into one entry per camera.

    The names are `name/1`, `name/2` and so on, or `name` if there is a single camera.
    """
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}/{number}": value for number, value in enumerate(values, start=1)}


def _logarithm(motion: Tensor, mode: Literal["SO3xR3", "SE3"]) -> Tensor:
    """Convert transforms (V, 3, 4) to pose parameters (V, 6): translation part, then rotation vector.

    This function is the inverse of nerfstudio's `exp_map_SE3` or `exp_map_SO3xR3`, as selected by `mode`.
    Rotations must be well below 180 degrees.
    """
    R, t = motion[:, :, :3], motion[:, :, 3]
    rotation = rotation_log(R)
    if mode == "SE3":
        t = torch.linalg.solve(left_jacobian(rotation), t)
    return torch.cat([t, rotation], -1)
