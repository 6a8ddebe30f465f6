"""Rendering of Gaussians with both camera models."""

from __future__ import annotations

import pytest
import torch
from fixtures.dense_reference import random_fisheye_scene

from nope_splat.splatting.gaussians import Gaussians
from nope_splat.splatting.rasterizer import CameraModel, rasterization
from nope_splat.splatting.rendering import CameraView, RenderConfig, render_gaussians


@pytest.mark.parametrize("camera_model", ["pinhole", "fisheye"])
def test_camera_model_of_the_view_is_rendered(camera_model: CameraModel) -> None:
    scene = random_fisheye_scene(0, 150.0)
    size, background = (scene.width, scene.height), torch.tensor([0.2, 0.4, 0.6])
    splats = Gaussians(scene.means, scene.quats, scene.scales, scene.opacities, scene.colors[:, None] - 0.5)
    view = CameraView(scene.viewmats, scene.Ks, size, camera_model=camera_model)
    config = RenderConfig(0, "RGB+ED", camera_model=view.camera_model)
    rendering = render_gaussians(splats, view.T_camera_world, view.K, view.size, background, config)
    image, alpha, info = rasterization(
        *splats, scene.viewmats, scene.Ks, *size, sh_degree=0, camera_model=camera_model
    )
    expected = (image + (1 - alpha) * background).clamp(0, 1)[0]
    torch.testing.assert_close(rendering.rgb, expected)
    assert torch.equal(rendering.opacity, alpha[0])
    assert torch.equal(rendering.info["means2d"], info["means2d"])
    assert rendering.depth.isfinite().all()


def test_cameras_are_pinhole_cameras_by_default() -> None:
    assert CameraView(torch.eye(4)[None], torch.eye(3)[None], (4, 3)).camera_model == "pinhole"
    assert RenderConfig().camera_model == "pinhole"
