"""Poses of held-out images in a scene whose cameras have been optimized.

Training moves the world under the held-out images, so their poses must follow before a comparison says
anything. They are registered against the track points and then refined on the rendering, with everything else
frozen: nothing that is evaluated ever sees them.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from nope_splat.geometry.axes import switch_axes
from nope_splat.geometry.camera import SharedPinhole
from nope_splat.plugin.camera_optimizer import intrinsic_matrices, radial_terms, world_to_camera
from nope_splat.refinement.photometric import RenderedView, usable_pixels
from nope_splat.refinement.single_pose import Correspondences2d3d, minimize
from nope_splat.sfm import Reconstruction
from nope_splat.sfm.registration.resection import resect
from nope_splat.splatting.gaussians import Gaussians
from nope_splat.splatting.lens import Rendering, render_distorted


class SplatModel(Protocol):
    """What alignment needs of a model: `NopeSplatModel`, or another one that is to be compared with it."""

    background_color: Tensor
    """Color behind the Gaussians. (3,)."""

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
        """Colors, depth, opacity and a report, as `NopeSplatModel.render`."""
        ...


def resect_on_trained_points(
    scene: Reconstruction, image_id: int, points: Tensor, camera: SharedPinhole
) -> tuple[Tensor, Correspondences2d3d] | None:
    """Register a held-out image against the track points that training has moved.

    Before training, `sfm.registration.resection.resect_held_out` found the correspondences.

    Args:
        scene: The reconstruction, with the correspondences of the image.
        image_id: Index of the image in the scene.
        points: Optimized track points. (P, 3).
        camera: Its camera, with what has been optimized.

    Returns:
        Camera-to-world transform, OpenGL axes (3, 4), and the points that agree with it; None if too few
        points agree with any.
    """
    mine = scene.resections.image_ids == image_id
    width, height = scene.image_sizes[image_id]
    xy = scene.resections.xy[mine]
    seen = points.detach().double().cpu()[torch.from_numpy(scene.resections.point_ids[mine])]
    resection = resect(xy, seen.numpy(), camera, (int(width), int(height)))
    if resection is None:
        return None
    plane = torch.from_numpy(camera.unproject(xy, scene.image_sizes[image_id])[:, :2])
    inliers = torch.from_numpy(resection.inliers)
    correspondences = Correspondences2d3d(seen[inliers].to(points.device), plane[inliers].to(points.device))
    return switch_axes(torch.from_numpy(resection.T_world_camera)).float()[:3], correspondences


def refine_pose(
    model: SplatModel,
    camera: Cameras,
    image: Tensor,
    mask: Tensor | None,
    max_steps: int,
    correspondences: Correspondences2d3d | None = None,
) -> Tensor:
    """Refine the pose of one camera on its image; the model is frozen.

    Args:
        model: The trained model; neither its state nor its mode changes.
        camera: The camera, at the resolution of the image, near its true pose. One.
        image: The image. (H, W, 3), in [0, 1].
        mask: True where the image counts. (H, W, 1), bool.
        max_steps: Most steps at each of three resolutions.
        correspondences: Track points that the image shows, if any are known.

    Returns:
        Camera-to-world transform, OpenGL axes. (3, 4).
    """
    gaussians, K = model.gaussians().detach(), intrinsic_matrices(camera)[0]

    def render_view(T_camera_world: Tensor) -> RenderedView:
        rendered, depth, opacity, _ = render_image(model, gaussians, camera, T_camera_world.float()[None])
        used = usable_pixels(depth[..., 0], opacity[..., 0], None if mask is None else mask[..., 0])
        # The gradient beside a mask must not feel what it hides.
        seen = image if mask is None else torch.where(mask, image, rendered)
        intrinsics = K.diagonal()[:2], K[:2, 2], radial_terms(camera)
        return RenderedView(rendered, seen, depth[..., 0], used, *intrinsics)

    with torch.no_grad():
        pose = minimize(render_view, world_to_camera(camera.camera_to_worlds)[0], correspondences, max_steps)
    return switch_axes(torch.linalg.inv(pose)).float()[:3]


def render_image(
    model: SplatModel, gaussians: Gaussians, camera: Cameras, T_camera_world: Tensor
) -> Rendering:
    """Render what an image shows, with depth and on the color behind the Gaussians.

    Args:
        model: The model.
        gaussians: Its Gaussians.
        camera: Size and intrinsics, the learned lens included. One.
        T_camera_world: World-to-camera transform, OpenCV axes. (1, 4, 4).

    Returns:
        The rendering.
    """
    background = model.background_color.to(gaussians.means)

    def pinhole(K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        return model.render(gaussians, T_camera_world, K, size, background, render_mode="RGB+ED")

    size = int(camera.width), int(camera.height)
    return render_distorted(pinhole, intrinsic_matrices(camera), size, radial_terms(camera))
