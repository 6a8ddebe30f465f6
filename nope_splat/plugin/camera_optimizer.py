"""Optimized cameras: a pose correction per image and a focal length per camera.

Optionally also a principal point and radial distortion per camera (`LearnedLens`).

Poses have nerfstudio's OpenGL axes here, as in everything that nerfstudio accesses (`geometry.axes`).
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
from nope_splat.geometry.camera import SharedPinhole
from nope_splat.geometry.rigid import left_jacobian, rotation_log
from nope_splat.plugin.camera_refinement import CameraRefinement, GradientRefinement, JointRefinement
from nope_splat.plugin.learned_lens import LearnedLens
from nope_splat.splatting.lens import Lens

LENS_METRICS = ("principal_point_x_px", "principal_point_y_px", "radial_k1", "radial_k2")
"""Names of the metrics of learned lenses."""


def world_to_camera(camera_to_world: Tensor) -> Tensor:
    """Invert nerfstudio's camera poses to world-to-camera transforms in OpenCV axes, for projection.

    Args:
        camera_to_world: Poses in nerfstudio's OpenGL axes. (..., 3, 4).

    Returns:
        `T_camera_world`. (..., 4, 4).
    """
    return pose_utils.to4x4(pose_utils.inverse(switch_axes(camera_to_world)))


def intrinsic_matrices(cameras: Cameras) -> Tensor:
    """Build intrinsic matrices on the device of the cameras; nerfstudio's method returns them on the CPU.

    Args:
        cameras: C cameras.

    Returns:
        Intrinsic matrices in pixels. (C, 3, 3).
    """
    K = cameras.fx.new_zeros(*cameras.shape, 3, 3)
    K[..., 0, 0], K[..., 1, 1] = cameras.fx[..., 0], cameras.fy[..., 0]
    K[..., 0, 2], K[..., 1, 2] = cameras.cx[..., 0], cameras.cy[..., 0]
    K[..., 2, 2] = 1.0
    return K


def image_size(camera: Cameras) -> tuple[int, int]:
    """Return the image size of a camera; without a GPU synchronization if the metadata hold it.

    Args:
        camera: A single camera; its metadata may contain `size`, a tuple of integers.

    Returns:
        Width and height in pixels.
    """
    size = (camera.metadata or {}).get("size")
    return (int(camera.width), int(camera.height)) if size is None else size


def radial_terms(camera: Cameras) -> Tensor | None:
    """Return the learned radial distortion k1 and k2 of a camera, if any. (2,)."""
    radial = (camera.metadata or {}).get("radial")
    return None if radial is None else radial.reshape(2)


@dataclass
class NopeCameraOptimizerConfig(CameraOptimizerConfig):
    """Configuration of the optimized cameras."""

    _target: type = field(default_factory=lambda: NopeCameraOptimizer)
    optimize_focal: bool = True
    """Whether to optimize the focal lengths (mode selects the pose optimization)."""
    optimize_principal_point: bool = False
    """Whether to optimize the principal points, except of cameras with both portrait and landscape images."""
    optimize_distortion: bool = False
    """Whether to optimize two radial distortion terms per camera; renderings are distorted by resampling.

    The reconstruction then also estimates distortion, which initializes the terms. With this option or
    optimize-principal-point, training uses the original images, not undistorted ones."""
    refinement: OmitSubcommandPrefixes[CameraRefinement] = field(default_factory=JointRefinement)
    """Method of camera refinement."""
    # nerfstudio's penalties are unused, because the track losses constrain the cameras better.
    trans_l2_penalty: Suppress[float] = 0.0
    rot_l2_penalty: Suppress[float] = 0.0

    @property
    def by_gradient(self) -> bool:
        """Whether gradient steps optimize the cameras."""
        return isinstance(self.refinement, GradientRefinement)

    def learns_lens(self) -> bool:
        """Check whether principal points or distortion are optimized."""
        return self.optimize_principal_point or self.optimize_distortion


class NopeCameraOptimizer(CameraOptimizer):
    """Poses `base @ exp(delta)` and focal lengths `base_focal * exp(log_focal)`.

    A nerfstudio camera is the view of one image; V views share K sets of intrinsics. The cameras of the
    reconstruction are buffers, so that a checkpoint contains complete cameras, and applying the optimizer
    twice to a camera has no further effect.

    Args:
        config: Configuration.
        num_cameras: Number V of training views.
        device: Initial device of the parameters.
        intrinsics_ids: Index of the intrinsics of each view; zero by default. (V,).
        num_intrinsics: Number K of sets of intrinsics, at least as many as the views use.
    """

    config: NopeCameraOptimizerConfig
    base_poses: Tensor
    base_focal: Tensor
    intrinsics_ids: Tensor

    def __init__(
        self,
        config: NopeCameraOptimizerConfig,
        num_cameras: int,
        device: torch.device | str,
        intrinsics_ids: Tensor | None = None,
        num_intrinsics: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(config, num_cameras, device, **kwargs)
        if intrinsics_ids is None:
            intrinsics_ids = torch.zeros(num_cameras, dtype=torch.int64, device=device)
        self.log_focal = nn.Parameter(torch.zeros(num_intrinsics, device=device))
        self.register_buffer("base_poses", torch.eye(4, device=device)[:3].repeat(num_cameras, 1, 1))
        self.register_buffer("base_focal", torch.ones(num_intrinsics, device=device))
        self.register_buffer("intrinsics_ids", intrinsics_ids.to(device))
        self.learned_lens = None
        if config.learns_lens():
            learns = config.optimize_principal_point, config.optimize_distortion
            self.learned_lens = LearnedLens(num_intrinsics, *learns, config.by_gradient, device)
        self.last_adjustment: dict[str, float] = {}

    @torch.no_grad()
    def set_base(self, poses: Tensor, focal: Tensor | float) -> None:
        """Set the cameras of the reconstruction, from which corrections are measured.

        Args:
            poses: Camera-to-world transforms, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in pixels of the full-resolution images. (K,), or a single value.
        """
        self.base_poses.copy_(poses)
        self.base_focal.copy_(torch.as_tensor(focal))

    @torch.no_grad()
    def set_cameras(self, poses: Tensor, focal: Tensor, lens: Lens | None = None) -> None:
        """Set the optimized part of the cameras; frozen parameters are not changed.

        Args:
            poses: Camera-to-world transforms, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in pixels of the full-resolution images. (K,).
            lens: Principal points and distortion, if these are optimized. (K, 2) each.
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
        """Compute `exp(delta)`, from optimized to original camera coordinates. (B,) to (B, 3, 4)."""
        return self._motions(indices.to(self.base_poses.device))

    def _motions(self, views: Tensor | slice) -> Tensor:
        """Compute `exp(delta)` of views by index or by slice; a slice avoids a GPU synchronization."""
        if self.config.mode == "off":
            rows = self.base_poses[views]
            return torch.eye(4, device=rows.device, dtype=rows.dtype)[:3].expand_as(rows)
        exponential = exp_map_SE3 if self.config.mode == "SE3" else exp_map_SO3xR3
        return exponential(self.pose_adjustment[views])

    def poses(self) -> Tensor:
        """Compute the optimized camera-to-world transforms of all training views, OpenGL axes. (V, 3, 4)."""
        return pose_utils.multiply(self.base_poses, self._motions(slice(None)))

    def focal(self) -> Tensor:
        """Compute the optimized focal lengths in pixels of the full-resolution images. (K,)."""
        return self.base_focal * self.log_focal.exp()

    def view_focals(self) -> Tensor:
        """Compute the optimized focal length of each training view, in full-resolution pixels. (V,)."""
        return self.focal()[self.intrinsics_ids]

    def apply_to_camera(self, camera: Cameras) -> Tensor:
        """Return the optimized pose of a training camera, or the given pose of any other camera.

        Args:
            camera: A single camera. Training cameras have nerfstudio's `cam_idx` in their metadata.

        Returns:
            Camera-to-world transform, OpenGL axes. (1, 3, 4).
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return camera.camera_to_worlds
        view = int(camera.metadata["cam_idx"])
        motion = self._motions(slice(view, view + 1))
        return pose_utils.multiply(self.base_poses[view : view + 1], motion).to(camera.device)

    def lens(self) -> Lens | None:
        """Return the optimized principal points and distortion of the K cameras; None if they are fixed."""
        return None if self.learned_lens is None else self.learned_lens.lens()

    def view_lens(self) -> Lens | None:
        """Return the optimized principal points and distortion by training view; None if they are fixed."""
        lens = self.lens()
        return None if lens is None else lens.select(self.intrinsics_ids)

    def apply_to_intrinsics(self, camera: Cameras, K: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the optimized intrinsics of a training camera, or the given ones of any other camera.

        Args:
            camera: A single camera. Training cameras have nerfstudio's `cam_idx` in their metadata.
            K: Intrinsic matrix of the camera in the reconstruction, at any resolution. (1, 3, 3).

        Returns:
            The intrinsic matrix (1, 3, 3), and the radial terms (2,) or None without distortion.
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return K, radial_terms(camera)
        view = int(camera.metadata["cam_idx"])
        number = self.intrinsics_ids[view : view + 1]
        adjusted, lens = K.clone(), self.lens()
        adjusted[:, :2, :2] *= self.log_focal[number].exp()  # the off-diagonal entries are zero
        if lens is None:
            return adjusted, None
        shift, radial = lens.select(number)
        adjusted[:, :2, 2] += shift * K.diagonal(dim1=1, dim2=2)[:, :2] / self.base_focal[number]
        return adjusted, radial[0]

    def cameras(self, start: Sequence[SharedPinhole]) -> tuple[SharedPinhole, ...]:
        """Return the cameras of the reconstruction with the optimized intrinsics.

        Args:
            start: The K cameras of the reconstruction.
        """
        focals = self.focal().tolist()
        cameras = tuple(replace(camera, focal=focal) for camera, focal in zip(start, focals, strict=True))
        return cameras if self.learned_lens is None else self.learned_lens.cameras(cameras)

    def get_param_groups(self, param_groups: dict) -> None:
        """Add the parameters that Adam optimizes: poses, focal lengths, principal points and distortion."""
        if not self.config.by_gradient:
            return
        if self.config.mode != "off":
            param_groups["camera_opt"] = [self.pose_adjustment]
        if self.config.optimize_focal:
            param_groups["focal_opt"] = [self.log_focal]
        if self.learned_lens is not None:
            param_groups |= self.learned_lens.param_groups()

    def adjustment_steps(self, num_iterations: int, few_tracks: bool = False) -> tuple[int, ...]:
        """List the iterations after which the cameras are adjusted jointly; empty if all cameras are fixed.

        Args:
            num_iterations: Length of the training.
            few_tracks: Whether renderings constrain the cameras better than tracks.
        """
        refinement = self.config.refinement
        frozen = self.config.mode == "off" and not self.config.optimize_focal and self.learned_lens is None
        if frozen or not isinstance(refinement, JointRefinement):
            return ()
        return refinement.steps(num_iterations, few_tracks)

    def get_loss_dict(self, loss_dict: dict) -> None:
        """Add no loss: track losses replace nerfstudio's penalties on pose corrections."""

    @torch.no_grad()
    def get_metrics_dict(self, metrics_dict: dict) -> None:
        """Add metrics: focal length (full-resolution pixels), its change, and the size of pose corrections.

        Also the statistics of the last joint adjustment, and principal point (pixels from the image center)
        and distortion if they are optimized. With several cameras, the names of intrinsics end with `/` and
        the camera number, starting at 1.
        """
        metrics_dict |= self.last_adjustment
        metrics_dict |= _by_camera("focal_px", self.focal())
        metrics_dict |= _by_camera("focal_change_percent", 100 * torch.expm1(self.log_focal))
        if self.learned_lens is not None:
            shift, radial = self.learned_lens.lens()
            values = torch.cat([self.learned_lens.offset + shift, radial], 1)
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
    """Split a metric into an entry per camera. (K,) to K tensors ()."""
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}/{number}": value for number, value in enumerate(values, start=1)}


def _logarithm(motion: Tensor, mode: Literal["SO3xR3", "SE3"]) -> Tensor:
    """Invert nerfstudio's exponential maps, for rotations well below 180 degrees. (V, 3, 4) to (V, 6)."""
    R, t = motion[:, :, :3], motion[:, :, 3]
    rotation = rotation_log(R)
    if mode == "SE3":
        t = torch.linalg.solve(left_jacobian(rotation), t)
    return torch.cat([t, rotation], -1)
