"""Cameras that are optimised with the Gaussians: a small motion per photograph, a focal length per camera.

This file and the dataparser are the only places that know nerfstudio's camera axes (OpenGL: x right, y up,
z backward); everywhere else cameras have OpenCV axes (x right, y down, z forward).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils import poses as pose_utils
from torch import Tensor, nn

from nope_splat.ranges import NOT_NEGATIVE, POSITIVE


def switch_axes(camera_to_world: Tensor) -> Tensor:
    """Camera-to-world transforms from OpenCV to nerfstudio's OpenGL axes, or back: it is its own inverse.

    Args:
        camera_to_world: Transforms. (..., 3 or 4, 4).

    Returns:
        The same cameras in the other axes. (..., 3 or 4, 4).
    """
    return camera_to_world * camera_to_world.new_tensor([1.0, -1.0, -1.0, 1.0])


def world_to_camera(camera_to_world: Tensor) -> Tensor:
    """World-to-camera transforms in OpenCV axes, for projection, from nerfstudio's camera poses.

    Args:
        camera_to_world: Poses in nerfstudio's OpenGL axes. (..., 3, 4).

    Returns:
        `T_camera_world`. (..., 4, 4).
    """
    return pose_utils.to4x4(pose_utils.inverse(switch_axes(camera_to_world)))


@dataclass
class NopeCameraOptimizerConfig(CameraOptimizerConfig):
    """Configuration of the optimised cameras."""

    _target: type = field(default_factory=lambda: NopeCameraOptimizer)
    optimize_focal: bool = True
    """Whether the focal lengths are optimised (the mode decides about the poses)."""
    method: Literal["adam", "levenberg-marquardt"] = "levenberg-marquardt"
    """How cameras move: by joint adjustments at intervals, or by gradient steps with the Gaussians (the
    paper)."""
    adjust_start: Annotated[float, NOT_NEGATIVE] = 0.5
    """Share of the training before the first joint adjustment: rough renderings bias the focal length."""
    adjust_interval: Annotated[float, POSITIVE] = 0.2
    """Share of the training between joint adjustments."""
    trans_l2_penalty: float = 0.0
    """Pull of the camera positions towards the reconstruction; the track losses do this better."""
    rot_l2_penalty: float = 0.0
    """Pull of the camera rotations towards the reconstruction; the track losses do this better."""


class NopeCameraOptimizer(CameraOptimizer):
    """Poses `base @ exp(delta)` and focal lengths `base_focal * exp(log_focal)`, in absolute terms.

    What nerfstudio calls a camera is the view of one photograph; V views share K sets of intrinsics. The
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
        ids = torch.zeros(num_cameras, dtype=torch.int64) if intrinsics_ids is None else intrinsics_ids
        self.log_focal = nn.Parameter(torch.zeros(num_intrinsics, device=device))
        self.register_buffer("base_poses", torch.eye(4, device=device)[:3].repeat(num_cameras, 1, 1))
        self.register_buffer("base_focal", torch.ones(num_intrinsics, device=device))
        self.register_buffer("intrinsics_ids", ids.to(device))
        self.last_adjustment: dict[str, float] = {}

    @torch.no_grad()
    def set_base(self, poses: Tensor, focal: Tensor | float) -> None:
        """Start from the reconstruction's cameras.

        Args:
            poses: Camera-to-world transforms, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in pixels of the full-resolution photographs. (K,), or one for all.
        """
        self.base_poses.copy_(poses)
        self.base_focal.copy_(torch.as_tensor(focal))

    @torch.no_grad()
    def set_cameras(self, poses: Tensor, focal: Tensor) -> None:
        """Move the cameras that may move; the motion is counted from the reconstruction.

        Args:
            poses: Camera-to-world transforms, OpenGL axes. (V, 3, 4).
            focal: Focal lengths in pixels of the full-resolution photographs. (K,).
        """
        if self.config.mode != "off":
            base = pose_utils.inverse(self.base_poses.double())
            motion = pose_utils.multiply(base, poses.double())
            self.pose_adjustment.copy_(_logarithm(motion, self.config.mode))
        if self.config.optimize_focal:
            self.log_focal.copy_((focal / self.base_focal).log())

    def forward(self, indices: Tensor) -> Tensor:
        """Motions `exp(delta)` from optimised to original camera coordinates. (K,) to (K, 3, 4)."""
        return super().forward(indices.to(self.base_poses.device)).to(self.base_poses)

    def poses(self) -> Tensor:
        """Optimised camera-to-world transforms of all training views, OpenGL axes. (V, 3, 4)."""
        return pose_utils.multiply(self.base_poses, self.get_correction_matrices())

    def focal(self) -> Tensor:
        """Optimised focal lengths in pixels of the full-resolution photographs. (K,)."""
        return self.base_focal * self.log_focal.exp()

    def view_focals(self) -> Tensor:
        """The same for each training view. (V,)."""
        return self.focal()[self.intrinsics_ids]

    def focal_change(self, camera: Cameras) -> Tensor:
        """Optimised focal length of a training camera over that of the reconstruction.

        Args:
            camera: One camera, recognised by nerfstudio's `cam_idx`.

        Returns:
            The ratio; one for other cameras. ().
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return torch.ones_like(self.log_focal[0])
        return self.log_focal[self.intrinsics_ids[int(camera.metadata["cam_idx"])]].exp()

    def apply_to_camera(self, camera: Cameras) -> Tensor:
        """Optimised pose of a training camera, recognised by nerfstudio's `cam_idx`; other poses unchanged.

        Args:
            camera: One camera.

        Returns:
            Camera-to-world transform, OpenGL axes. (1, 3, 4).
        """
        if camera.metadata is None or "cam_idx" not in camera.metadata:
            return camera.camera_to_worlds
        index = torch.tensor([int(camera.metadata["cam_idx"])], device=self.base_poses.device)
        return pose_utils.multiply(self.base_poses[index], self(index)).to(camera.device)

    def get_param_groups(self, param_groups: dict) -> None:
        """Add the parameters that Adam moves: `camera_opt` (poses) and `focal_opt`."""
        if self.config.method != "adam":
            return
        if self.config.mode != "off":
            param_groups["camera_opt"] = [self.pose_adjustment]
        if self.config.optimize_focal:
            param_groups["focal_opt"] = [self.log_focal]

    def adjustment_steps(self, num_iterations: int) -> tuple[int, ...]:
        """Iterations after which the cameras are adjusted jointly; none where nothing may move.

        Args:
            num_iterations: Length of the training.
        """
        frozen = self.config.mode == "off" and not self.config.optimize_focal
        if frozen or self.config.method != "levenberg-marquardt":
            return ()
        first, interval = (
            max(round(share * num_iterations), 1)
            for share in (self.config.adjust_start, self.config.adjust_interval)
        )
        return tuple(range(first, num_iterations, interval))

    def get_loss_dict(self, loss_dict: dict) -> None:
        """Add the pull towards the reconstruction's poses, where asked for."""
        if self.config.trans_l2_penalty or self.config.rot_l2_penalty:
            super().get_loss_dict(loss_dict)

    @torch.no_grad()
    def get_metrics_dict(self, metrics_dict: dict) -> None:
        """Add focal length (full-resolution pixels), its change, and how far the cameras moved and turned.

        After a joint adjustment, also what that did. With several cameras, `/` and their numbers, from 1 on,
        follow the names of intrinsics.
        """
        metrics_dict |= self.last_adjustment
        metrics_dict |= _by_camera("focal_px", self.focal())
        metrics_dict |= _by_camera("focal_change_percent", 100 * torch.expm1(self.log_focal))
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
    axis = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], -1) / 2
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (R.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True) - 1) / 2)
    rotation = axis * torch.where(sine > 1e-9, angle / sine.clamp(min=1e-12), 1.0)
    if mode == "SE3":
        # The translation of exp is V t, with V the integral of exp(s [w]x) for s from 0 to 1, which a larger
        # exponential contains.
        generator = R.new_zeros(len(R), 6, 6)
        x, y, z = rotation.unbind(-1)
        zero = torch.zeros_like(x)
        generator[:, :3, :3] = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
        generator[:, :3, 3:] = torch.eye(3).to(R)
        t = torch.linalg.solve(torch.linalg.matrix_exp(generator)[:, :3, 3:], t)
    return torch.cat([t, rotation], -1)
