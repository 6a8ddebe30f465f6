"""Poses of held-out photographs in a scene whose cameras have been optimised.

Training moves the world under the held-out photographs, so their poses must follow before a comparison says
anything. They are registered against the track points and then refined on the rendering, with everything else
frozen: nothing that is evaluated ever sees them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.lie_groups import exp_map_SE3
from nerfstudio.utils import poses as pose_utils
from torch import Tensor

from nope_splat.camera import SharedPinhole
from nope_splat.camera_optimizer import switch_axes, world_to_camera
from nope_splat.gaussians import Gaussians
from nope_splat.losses import photometric_loss
from nope_splat.reconstruction import SparseScene
from nope_splat.reconstruction.resection import resect

LEARNING_RATES = (1e-3, 1e-4)
"""First and last step size of the refinement, in radians and in world units."""


class SplatModel(Protocol):
    """What alignment needs of a model: `NopeSplatModel`, or another one that is to be compared with it."""

    background_color: Tensor
    """Colour behind the Gaussians. (3,)."""

    @property
    def config(self) -> Any:
        """Has the model's `ssim_lambda`."""
        ...

    def gaussians(self) -> Gaussians:
        """All Gaussians, ready to be rendered."""
        ...

    def render(
        self,
        gaussians: Gaussians,
        T_camera_world: Tensor,
        K: Tensor,
        size: tuple[int, int],
        background: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Colours, depth, opacity and a report, as `NopeSplatModel.render`."""
        ...


def resect_held_out(scene: SparseScene, photo: int, points: Tensor, focal: float) -> Tensor | None:
    """Register a held-out photograph against the points and the focal length as they are now.

    Args:
        scene: The reconstruction, with the correspondences of the photograph.
        photo: Index of the photograph in the scene.
        points: Optimised track points. (P, 3).
        focal: Optimised focal length in full-resolution pixels.

    Returns:
        Camera-to-world transform, OpenGL axes (3, 4); None if too few points agree with any pose.
    """
    mine = scene.resections.photo_ids == photo
    width, height = scene.photo_sizes[photo]
    resection = resect(
        scene.resections.xy[mine],
        points.detach().double().cpu().numpy()[scene.resections.point_ids[mine]],
        SharedPinhole(focal, scene.camera.offset),
        (int(width), int(height)),
    )
    if resection is None:
        return None
    return switch_axes(torch.from_numpy(resection.T_world_camera)).float()[:3]


def refine_pose(model: SplatModel, camera: Cameras, photo: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """Refine the pose of one camera on its photograph; the model is frozen.

    Args:
        model: The trained model; neither its state nor its mode changes.
        camera: The camera, at the resolution of the photograph, near its true pose. One.
        photo: The photograph. (H, W, 3), in [0, 1].
        mask: True where the photograph counts. (H, W, 1), bool.
        steps: Number of optimisation steps.

    Returns:
        Camera-to-world transform, OpenGL axes. (3, 4).
    """
    gaussians = model.gaussians().detach()
    start, K = camera.camera_to_worlds, camera.get_intrinsics_matrices()
    size = int(camera.width), int(camera.height)
    background = model.background_color.to(photo)
    with torch.enable_grad():
        motion = torch.zeros(1, 6, device=photo.device, requires_grad=True)
        adam = torch.optim.Adam([motion])
        for step in range(steps):
            adam.param_groups[0]["lr"] = LEARNING_RATES[0] * (LEARNING_RATES[1] / LEARNING_RATES[0]) ** (
                step / steps
            )
            pose = pose_utils.multiply(start, exp_map_SE3(motion))
            rendered, _, _, _ = model.render(gaussians, world_to_camera(pose), K, size, background)
            adam.zero_grad()
            photometric_loss(rendered, photo, model.config.ssim_lambda, mask).backward()
            adam.step()
    return pose_utils.multiply(start, exp_map_SE3(motion.detach()))[0]
