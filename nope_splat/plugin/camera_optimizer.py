"""Cameras that are optimized with the Gaussians: a small motion per image, a focal length per camera.

Where that is asked for, a principal point and radial distortion per camera too (`LearnedLens`).

Poses have nerfstudio's OpenGL axes here, as in all of the plugin that nerfstudio sees (`geometry.axes`).
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

LENS_CURVES = ("principal_point_x_px", "principal_point_y_px", "radial_k1", "radial_k2")
"""Names of what is recorded of learned lenses."""


def world_to_camera(camera_to_world: Tensor) -> Tensor:
    """World-to-camera transforms in OpenCV axes, for projection, from nerfstudio's camera poses.

    Args:
        camera_to_world: Poses in nerfstudio's OpenGL axes. (..., 3, 4).

    Returns:
        `T_camera_world`. (..., 4, 4).
    """
    return pose_utils.to4x4(pose_utils.inverse(switch_axes(camera_to_world)))


def intrinsic_matrices(cameras: Cameras) -> Tensor:
    """Intrinsic matrices on the device of the cameras; nerfstudio's own method returns them on the CPU.

    Args:
        cameras: C cameras.

    Returns:
        Intrinsic matrices in pixels of the cameras' images. (C, 3, 3).
    """
    K = cameras.fx.new_zeros(*cameras.shape, 3, 3)
    K[..., 0, 0], K[..., 1, 1] = cameras.fx[..., 0], cameras.fy[..., 0]
    K[..., 0, 2], K[..., 1, 2] = cameras.cx[..., 0], cameras.cy[..., 0]
    K[..., 2, 2] = 1.0
    return K


def image_size(camera: Cameras) -> tuple[int, int]:
    """Width and height of a camera's image, without a wait for the GPU where the data manager knows them.

    Args:
        camera: One camera; its metadata may hold the `size` as numbers.

    Returns:
        Width and height in pixels.
    """
    size = (camera.metadata or {}).get("size")
    return (int(camera.width), int(camera.height)) if size is None else size


def radial_terms(camera: Cameras) -> Tensor | None:
    """Radial distortion of a camera that has learned some, k1 and k2. (2,)."""
    radial = (camera.metadata or {}).get("radial")
    return None if radial is None else radial.reshape(2)


@dataclass
class NopeCameraOptimizerConfig(CameraOptimizerConfig):
    """Configuration of the optimized cameras."""

    _target: type = field(default_factory=lambda: NopeCameraOptimizer)
    optimize_focal: bool = True
    """Whether the focal lengths are optimized (the mode decides about the poses)."""
    optimize_principal_point: bool = False
    """Whether the principal points are optimized, of cameras whose images are all portrait or all
    landscape."""
    optimize_distortion: bool = False
    """Whether two radial terms per camera are optimized: renderings are seen through the lens, by resampling.

    The reconstruction looks for distortion then, too, and what it found, if any, is where the terms start.
    With this or the option before, images are compared with as they are, not undistorted."""
    refinement: OmitSubcommandPrefixes[CameraRefinement] = field(default_factory=JointRefinement)
    """How the cameras move."""
    # nerfstudio's penalties: the track losses hold the cameras better.
    trans_l2_penalty: Suppress[float] = 0.0
    rot_l2_penalty: Suppress[float] = 0.0

    @property
    def by_gradient(self) -> bool:
        """Whether gradient steps move the cameras."""
        return isinstance(self.refinement, GradientRefinement)

    def learns_lens(self) -> bool:
        """Whether anything of a camera but its pose and focal length is optimized."""
        return self.optimize_principal_point or self.optimize_distortion


class NopeCameraOptimizer(CameraOptimizer):
    """Poses `base @ exp(delta)` and focal lengths `base_focal * exp(log_focal)`, in absolute terms.

    What nerfstudio calls a camera is the view of one image; V views share K sets of intrinsics. The
    cameras of the reconstruction are buffers, so that a checkpoint holds complete cameras and applying the
    optimizer to a camera twice does no harm.

    Args:
        config: Which cameras move.
        num_cameras: Number V of training views.
        device: Where the parameters live at first.
        intrinsics_ids: Which intrinsics each view has; by default all have the same. (V,).
        num_intrinsics: Number K of sets of intrinsics, perhaps more than the views have.
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
        """Start from the reconstruction's cameras.

        Args:
            poses: Camera-to-world transforms, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in pixels of the full-resolution images. (K,), or one for all.
        """
        self.base_poses.copy_(poses)
        self.base_focal.copy_(torch.as_tensor(focal))

    @torch.no_grad()
    def set_cameras(self, poses: Tensor, focal: Tensor, lens: Lens | None = None) -> None:
        """Move the cameras that may move; the motion is counted from the reconstruction.

        Args:
            poses: Camera-to-world transforms, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in pixels of the full-resolution images. (K,).
            lens: Principal points and distortion, where these are optimized. (K, 2) each.
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
        """Motions `exp(delta)` from optimized to original camera coordinates. (K,) to (K, 3, 4)."""
        return self._motions(indices.to(self.base_poses.device))

    def _motions(self, views: Tensor | slice) -> Tensor:
        """The same for views by index or by slice, which needs no wait for a GPU."""
        if self.config.mode == "off":
            rows = self.base_poses[views]
            return torch.eye(4, device=rows.device, dtype=rows.dtype)[:3].expand_as(rows)
        exponential = exp_map_SE3 if self.config.mode == "SE3" else exp_map_SO3xR3
        return exponential(self.pose_adjustment[views])

    def poses(self) -> Tensor:
        """Optimized camera-to-world transforms of all training views, OpenGL axes. (V, 3, 4)."""
        return pose_utils.multiply(self.base_poses, self._motions(slice(None)))

    def focal(self) -> Tensor:
        """Optimized focal lengths in pixels of the full-resolution images. (K,)."""
        return self.base_focal * self.log_focal.exp()

    def view_focals(self) -> Tensor:
        """The same for each training view. (V,)."""
        return self.focal()[self.intrinsics_ids]

    def apply_to_camera(self, camera: Cameras) -> Tensor:
        """Optimized pose of a training camera, recognized by nerfstudio's `cam_idx`; other poses unchanged.

        Args:
            camera: One camera.

        Returns:
            Camera-to-world transform, OpenGL axes. (1, 3, 4).
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return camera.camera_to_worlds
        view = int(camera.metadata["cam_idx"])
        motion = self._motions(slice(view, view + 1))
        return pose_utils.multiply(self.base_poses[view : view + 1], motion).to(camera.device)

    def lens(self) -> Lens | None:
        """Optimized principal points and distortion of the K cameras; None where they are not optimized."""
        return None if self.learned_lens is None else self.learned_lens.lens()

    def view_lens(self) -> Lens | None:
        """The same for each training view."""
        lens = self.lens()
        return None if lens is None else lens.select(self.intrinsics_ids)

    def apply_to_intrinsics(self, camera: Cameras, K: Tensor) -> tuple[Tensor, Tensor | None]:
        """Optimized intrinsics of a training camera; others stay.

        Args:
            camera: One camera, recognized by nerfstudio's `cam_idx`.
            K: Its intrinsic matrix by the reconstruction, at any resolution. (1, 3, 3).

        Returns:
            The intrinsic matrix (1, 3, 3), and the radial terms (2,) or None where there are none.
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return K, radial_terms(camera)
        view = int(camera.metadata["cam_idx"])
        number = self.intrinsics_ids[view : view + 1]
        adjusted, lens = K.clone(), self.lens()
        adjusted[:, :2, :2] *= self.log_focal[number].exp()  # off the diagonal these are zeros
        if lens is None:
            return adjusted, None
        shift, radial = lens.select(number)
        adjusted[:, :2, 2] += shift * K.diagonal(dim1=1, dim2=2)[:, :2] / self.base_focal[number]
        return adjusted, radial[0]

    def cameras(self, start: Sequence[SharedPinhole]) -> tuple[SharedPinhole, ...]:
        """The cameras of the reconstruction with what has been optimized.

        Args:
            start: Cameras of the reconstruction. K.
        """
        focals = self.focal().tolist()
        cameras = tuple(replace(camera, focal=focal) for camera, focal in zip(start, focals, strict=True))
        return cameras if self.learned_lens is None else self.learned_lens.cameras(cameras)

    def get_param_groups(self, param_groups: dict) -> None:
        """Add the parameters that Adam moves: poses, focal lengths, principal points and distortion."""
        if not self.config.by_gradient:
            return
        if self.config.mode != "off":
            param_groups["camera_opt"] = [self.pose_adjustment]
        if self.config.optimize_focal:
            param_groups["focal_opt"] = [self.log_focal]
        if self.learned_lens is not None:
            param_groups |= self.learned_lens.param_groups()

    def adjustment_steps(self, num_iterations: int, few_tracks: bool = False) -> tuple[int, ...]:
        """Iterations after which the cameras are adjusted jointly; none where nothing may move.

        Args:
            num_iterations: Length of the training.
            few_tracks: Whether the cameras depend on the images more than on tracks.
        """
        refinement = self.config.refinement
        frozen = self.config.mode == "off" and not self.config.optimize_focal and self.learned_lens is None
        if frozen or not isinstance(refinement, JointRefinement):
            return ()
        return refinement.steps(num_iterations, few_tracks)

    def get_loss_dict(self, loss_dict: dict) -> None:
        """Add nothing: track losses hold the cameras, not nerfstudio's penalties on their motion."""

    @torch.no_grad()
    def get_metrics_dict(self, metrics_dict: dict) -> None:
        """Add focal length (full-resolution pixels), its change, and how far the cameras moved and turned.

        After a joint adjustment, also what that did; where they are optimized, also principal point (pixels
        from the image center) and distortion. With several cameras, `/` and their numbers, from 1 on, follow
        the names of intrinsics.
        """
        metrics_dict |= self.last_adjustment
        metrics_dict |= _by_camera("focal_px", self.focal())
        metrics_dict |= _by_camera("focal_change_percent", 100 * torch.expm1(self.log_focal))
        if self.learned_lens is not None:
            shift, radial = self.learned_lens.lens()
            values = torch.cat([self.learned_lens.offset + shift, radial], 1)
            for name, value in zip(LENS_CURVES, values.unbind(1), strict=True):
                metrics_dict |= _by_camera(name, value)
        if self.config.mode != "off":
            translation, rotation = self.pose_adjustment.split(3, dim=-1)
            degrees = torch.rad2deg(rotation.norm(dim=-1))
            metrics_dict["camera_rotation_mean_deg"] = degrees.mean()
            metrics_dict["camera_rotation_max_deg"] = degrees.max()
            metrics_dict["camera_translation_mean"] = translation.norm(dim=-1).mean()
            metrics_dict["camera_translation_max"] = translation.norm(dim=-1).max()


def _by_camera(name: str, values: Tensor) -> dict[str, Tensor]:
    """A metric for each of the K cameras. (K,) to K tensors ()."""
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}/{number}": value for number, value in enumerate(values, start=1)}


def _logarithm(motion: Tensor, mode: Literal["SO3xR3", "SE3"]) -> Tensor:
    """Inverse of nerfstudio's exponential maps for rotations well below a half turn. (V, 3, 4) to (V, 6)."""
    R, t = motion[:, :, :3], motion[:, :, 3]
    rotation = rotation_log(R)
    if mode == "SE3":
        t = torch.linalg.solve(left_jacobian(rotation), t)
    return torch.cat([t, rotation], -1)
