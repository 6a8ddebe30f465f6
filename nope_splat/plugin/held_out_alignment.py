"""Align the poses of held-out images to a trained model, before the model is evaluated on these images.

Training changes the training poses and the track points, so the reconstructed poses of held-out images no
longer fit. Each held-out image is therefore registered again by resection on the optimized track points, and
its pose is refined by photometric alignment with the rendering. The model and all other cameras are frozen,
so held-out images do not affect the model.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from nope_splat.geometry.axes import switch_axes
from nope_splat.geometry.camera import Camera
from nope_splat.geometry.projection import to_plane
from nope_splat.plugin.camera_intrinsics import (
    camera_model,
    distortion_terms,
    image_size,
    intrinsic_matrices,
    lens_model,
)
from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.refinement.photometric import RenderedView, compare
from nope_splat.refinement.single_pose import Correspondences2d3d, refine_single_pose
from nope_splat.sfm import Reconstruction
from nope_splat.sfm.registration.resection import resect
from nope_splat.splatting.gaussians import Gaussians
from nope_splat.splatting.lens import Rendering, render_distorted
from nope_splat.splatting.rendering import CameraView


class SplatModel(Protocol):
    """Interface of a model, such as `NopeSplatModel`, to which the poses of held-out images are aligned."""

    background_color: Tensor
    """Color of pixels without Gaussians, RGB in [0, 1]. (3,)."""

    def gaussians(self) -> Gaussians:
        """Return all Gaussians, with activations applied to the optimized parameters."""
        ...

    def render(
        self,
        gaussians: Gaussians,
        view: CameraView,
        background: Tensor,
        *,
        render_mode: Literal["RGB", "RGB+ED"] = "RGB",
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Render Gaussians as `NopeSplatModel.render` does.

        Args:
            gaussians: Gaussians to render.
            view: Pose and intrinsics.
            background: Background color, RGB in [0, 1]. (3,).
            render_mode: "RGB" renders colors; "RGB+ED" also renders the expected depth in world units.

        Returns:
            Colors (H, W, 3), depth (H, W, 1), opacity (H, W, 1) and gsplat's dictionary `info`. In mode
            "RGB", depth is empty (H, W, 0).
        """
        ...


def resect_on_trained_points(
    scene: Reconstruction, image_id: int, points: Tensor, camera: Camera
) -> tuple[Tensor, Correspondences2d3d] | None:
    """Register a held-out image by resection on the optimized track points.

    The 2D-3D correspondences come from the reconstruction (`scene.resections`).

    Args:
        scene: The reconstruction before training.
        image_id: Index of the held-out image in the reconstruction.
        points: Optimized track points in world coordinates. (P, 3).
        camera: Optimized intrinsics of the image.

    Returns:
        Camera-to-world transform, OpenGL axes (3, 4), and the inlier correspondences; None if there are too
        few inliers.
    """
    in_image = scene.resections.image_ids == image_id
    width, height = scene.image_sizes[image_id]
    xy = scene.resections.xy[in_image]
    observed = points.detach().double().cpu()[torch.from_numpy(scene.resections.point_ids[in_image])]
    resection = resect(xy, observed.numpy(), camera, (int(width), int(height)))
    if resection is None:
        return None
    rays = torch.from_numpy(camera.unproject(xy, scene.image_sizes[image_id]))
    plane, inliers = to_plane(rays, camera.is_fisheye), torch.from_numpy(resection.inliers)
    correspondences = Correspondences2d3d(
        observed[inliers].to(points.device), plane[inliers].to(points.device), camera.is_fisheye
    )
    return switch_axes(torch.from_numpy(resection.T_world_camera)).float()[:3], correspondences


def refine_pose(
    model: SplatModel,
    camera: Cameras,
    image: Tensor,
    mask: Tensor | None,
    max_steps: int,
    correspondences: Correspondences2d3d | None = None,
) -> Tensor:
    """Refine the pose of an image by photometric alignment of the image with the rendering of a frozen model.

    Args:
        model: The trained model; its state and mode do not change.
        camera: A single camera at the resolution of the image, with the initial pose.
        image: Colors of the image in [0, 1]. (H, W, 3).
        mask: True for used pixels (H, W, 1); None if all pixels are used.
        max_steps: Maximum number of Levenberg-Marquardt steps at each of three resolutions.
        correspondences: Track points with their positions in the image. Their reprojection errors are also
            minimized; None for photometric alignment alone.

    Returns:
        Refined camera-to-world transform, OpenGL axes. (3, 4).
    """
    gaussians, K, lens = model.gaussians().detach(), intrinsic_matrices(camera)[0], lens_model(camera)

    def render_view(T_camera_world: Tensor) -> RenderedView:
        rendering = render_image(model, gaussians, camera, T_camera_world.float()[None])
        return compare(rendering, image, mask, K, lens)

    with torch.no_grad():
        initial_pose = world_to_camera(camera.camera_to_worlds)[0]
        pose = refine_single_pose(render_view, initial_pose, correspondences, max_steps)
    return switch_axes(torch.linalg.inv(pose)).float()[:3]


def render_image(
    model: SplatModel, gaussians: Gaussians, camera: Cameras, T_camera_world: Tensor
) -> Rendering:
    """Render the image of a camera at a given pose, with depth, distortion and the model's background color.

    Args:
        model: The model.
        gaussians: Gaussians to render.
        camera: A single camera with image size, intrinsics and learned distortion; its pose is not used.
        T_camera_world: World-to-camera transform, OpenCV axes. (1, 4, 4).

    Returns:
        Colors (H, W, 3), depth in world units (H, W, 1), opacity (H, W, 1) and gsplat's dictionary `info`.
    """
    background, projection = model.background_color.to(gaussians.means), camera_model(camera)

    def ideal(K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        view = CameraView(T_camera_world, K, size, camera_model=projection)
        return model.render(gaussians, view, background, render_mode="RGB+ED")

    return render_distorted(ideal, intrinsic_matrices(camera), image_size(camera), distortion_terms(camera))
