"""Poses of held-out photographs in a scene whose cameras have been optimised.

Training moves the world under the held-out photographs, so their poses must follow before a comparison says
anything. They are registered against the track points and then refined on the rendering, with everything else
frozen: nothing that is evaluated ever sees them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from nope_splat.camera_optimizer import switch_axes, world_to_camera
from nope_splat.evaluation.pose_refinement import Sightings, minimise
from nope_splat.gaussians import Gaussians
from nope_splat.photometric_alignment import RenderedView, usable_pixels
from nope_splat.reconstruction import SparseScene
from nope_splat.reconstruction.resection import resect


class SplatModel(Protocol):
    """What alignment needs of a model: `NopeSplatModel`, or another one that is to be compared with it."""

    background_color: Tensor
    """Colour behind the Gaussians. (3,)."""

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
        *,
        render_mode: Literal["RGB", "RGB+ED"] = "RGB",
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Colours, depth, opacity and a report, as `NopeSplatModel.render`."""
        ...


def resect_held_out(
    scene: SparseScene, photo: int, points: Tensor, focal: float
) -> tuple[Tensor, Sightings] | None:
    """Register a held-out photograph against the points and the focal length as they are now.

    Args:
        scene: The reconstruction, with the correspondences of the photograph.
        photo: Index of the photograph in the scene.
        points: Optimised track points. (P, 3).
        focal: Optimised focal length of its camera in full-resolution pixels.

    Returns:
        Camera-to-world transform, OpenGL axes (3, 4), and the points that agree with it; None if too few
        points agree with any.
    """
    mine = scene.resections.photo_ids == photo
    width, height = scene.photo_sizes[photo]
    xy = scene.resections.xy[mine]
    seen = points.detach().double().cpu()[torch.from_numpy(scene.resections.point_ids[mine])]
    camera = replace(scene.camera_of(photo), focal=focal)
    resection = resect(xy, seen.numpy(), camera, (int(width), int(height)))
    if resection is None:
        return None
    plane = torch.from_numpy((xy - scene.principal_points()[photo]) / focal)
    inliers = torch.from_numpy(resection.inliers)
    sightings = Sightings(seen[inliers].to(points.device), plane[inliers].to(points.device))
    return switch_axes(torch.from_numpy(resection.T_world_camera)).float()[:3], sightings


def refine_pose(
    model: SplatModel,
    camera: Cameras,
    photo: Tensor,
    mask: Tensor | None,
    max_steps: int,
    sightings: Sightings | None = None,
) -> Tensor:
    """Refine the pose of one camera on its photograph; the model is frozen.

    Args:
        model: The trained model; neither its state nor its mode changes.
        camera: The camera, at the resolution of the photograph, near its true pose. One.
        photo: The photograph. (H, W, 3), in [0, 1].
        mask: True where the photograph counts. (H, W, 1), bool.
        max_steps: Most steps at each of three resolutions.
        sightings: Track points that the photograph shows, if any are known.

    Returns:
        Camera-to-world transform, OpenGL axes. (3, 4).
    """
    gaussians, K = model.gaussians().detach(), camera.get_intrinsics_matrices()
    size, background = (int(camera.width), int(camera.height)), model.background_color.to(photo)

    def look(T_camera_world: Tensor) -> RenderedView:
        rendered, depth, opacity, _ = model.render(
            gaussians, T_camera_world.float()[None], K, size, background, render_mode="RGB+ED"
        )
        used = usable_pixels(depth[..., 0], opacity[..., 0], None if mask is None else mask[..., 0])
        # The gradient beside a mask must not feel what it hides.
        seen = photo if mask is None else torch.where(mask, photo, rendered)
        return RenderedView(rendered, seen, depth[..., 0], used, K[0, [0, 1], [0, 1]], K[0, :2, 2])

    with torch.no_grad():
        pose = minimise(look, world_to_camera(camera.camera_to_worlds)[0], sightings, max_steps)
    return switch_axes(torch.linalg.inv(pose)).float()[:3]
