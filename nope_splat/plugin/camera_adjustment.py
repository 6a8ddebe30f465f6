"""Joint refinement of cameras and track points: build the problem, solve it, and update the model."""

from __future__ import annotations

import math
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from nope_splat.geometry.axes import switch_axes
from nope_splat.geometry.distortion import NUM_TERMS
from nope_splat.geometry.projection import LensModel
from nope_splat.plugin.camera_intrinsics import is_fisheye
from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.plugin.camera_refinement import JointRefinement
from nope_splat.plugin.model import NopeSplatModel
from nope_splat.refinement.joint import JointResult, RenderView, adjust_jointly
from nope_splat.refinement.photometric import RenderedView, compare
from nope_splat.sfm.bundle_adjustment.problem import NUM_INTRINSICS, BundleProblem
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.rendering import CameraView

MIN_MEAN_OBSERVATIONS = 200
"""Mean number of track observations per training image below which joint refinement starts earlier and runs
more often (`JointRefinement.few_tracks_start`). Images with texture and overlap have about 2000."""


def has_few_tracks(model: NopeSplatModel) -> bool:
    """Check whether training images have fewer than `MIN_MEAN_OBSERVATIONS` track observations on average.

    With few observations, renderings constrain the cameras better than tracks do.

    Args:
        model: The model, in training mode.

    Returns:
        True if the mean is below `MIN_MEAN_OBSERVATIONS`. Always False if principal points or distortion are
        optimized.
    """
    observations, lens = model.observations, model.camera_optimizer.learned_lens
    return lens is None and len(observations.view_ids) < MIN_MEAN_OBSERVATIONS * model.num_train_data


def joint_problem(model: NopeSplatModel) -> BundleProblem:
    """Build the bundle adjustment problem of joint refinement from the current cameras and track points.

    Args:
        model: The model, in training mode.

    Returns:
        Problem whose images are the V training views. `intrinsics` (K, 9) contains, for each camera, log
        focal length, shift (x, y) of the principal point from its position in the reconstruction
        (full-resolution pixels), and distortion coefficients. `xy` are observed positions relative to the
        principal point of the reconstruction, in full-resolution pixels.
    """
    optimizer, observations = model.camera_optimizer, model.observations.to(model.device)
    lens, learned_lens = optimizer.lens(), optimizer.learned_lens
    num_cameras, device = len(optimizer.base_focal), model.device
    intrinsics = torch.zeros(num_cameras, NUM_INTRINSICS, dtype=torch.float64, device=device)
    intrinsics[:, 0] = optimizer.focal().double().log()
    free_intrinsics = torch.zeros_like(intrinsics, dtype=torch.bool)
    free_intrinsics[:, 0] = optimizer.config.optimize_focal
    prior_mean, prior_sigma = intrinsics.clone(), torch.ones_like(intrinsics)
    if lens is not None and learned_lens is not None:
        intrinsics[:, 1:] = torch.cat([lens.shift, lens.distortion], 1)
        free_intrinsics[:, 1:] = learned_lens.free_mask()
        mean, prior_sigma[:, 1:] = learned_lens.prior()
        prior_mean[:, 1:] = torch.where(free_intrinsics[:, 1:], mean, intrinsics[:, 1:])
    return BundleProblem(
        T_camera_world=world_to_camera(optimizer.poses()).double(),
        points=model.track_positions().double(),
        intrinsics=intrinsics,
        camera_ids=optimizer.intrinsics_ids,
        upright_from_sensor=torch.eye(2, dtype=torch.float64, device=device).expand(
            model.num_train_data, 2, 2
        ),
        image_ids=observations.view_ids,
        point_ids=observations.point_ids,
        xy=observations.xy.double(),
        sigma=observations.sigma.double(),
        free_poses=torch.full((model.num_train_data,), optimizer.config.mode != "off", device=device),
        free_intrinsics=free_intrinsics,
        prior_mean=prior_mean,
        prior_sigma=prior_sigma,
        is_fisheye=optimizer.is_fisheye if optimizer.has_fisheye else None,
    )


def view_renderer(model: NopeSplatModel, cameras: Cameras, batches: list[dict[str, Any]]) -> RenderView:
    """Create a function that renders training views for the photometric term of joint refinement.

    Args:
        model: The model, in training mode. Views are rendered at the current training resolution; then width
            and height are halved until both are at most `JointRefinement.max_image_size`.
        cameras: Cameras of the V training views, with the intrinsics of the reconstruction.
        batches: Batch of each of the V training views, from the data manager: a dictionary with the image and
            an optional mask.

    Returns:
        Function that renders a view. Its arguments are the index of the view, `T_camera_world` (4, 4), and
        intrinsics (9,): log focal length, shift (x, y) of the principal point from its position in the
        reconstruction (full-resolution pixels), and distortion coefficients.
    """
    optimizer, background = model.camera_optimizer, model.background_color.to(model.device)
    gaussians, sh_degree = model.gaussians(), model.current_sh_degree()
    lens, refinement = optimizer.lens(), optimizer.config.refinement
    assert isinstance(refinement, JointRefinement)
    max_size = refinement.max_image_size
    base_focals = optimizer.base_focal[optimizer.intrinsics_ids, None]
    scales = torch.cat([cameras.fx, cameras.fy], -1).to(model.device) / base_focals
    centers = torch.cat([cameras.cx, cameras.cy], -1).to(model.device)

    def render_view(index: int, T_camera_world: Tensor, intrinsics: Tensor) -> RenderedView:
        image, mask = model.image_and_mask(batches[index], background)
        height, width = image.shape[:2]
        factor = round(int(cameras.width[index]) / width)
        K = torch.eye(3, device=model.device)
        K.diagonal()[:2] = intrinsics[0].exp().float() * scales[index] / factor
        K[:2, 2] = (centers[index] + intrinsics[1:3].float() * scales[index]) / factor
        terms = None if lens is None else intrinsics[3:].float()
        distortion = terms if terms is not None and bool(terms.any()) else None
        pose, is_equidistant = T_camera_world[None].float(), is_fisheye(cameras[index : index + 1])
        projection = "fisheye" if is_equidistant else "pinhole"
        view = CameraView(pose, K[None], (width, height), distortion, projection)
        rendering = model.render(gaussians, view, background, sh_degree, "RGB+ED")
        rendered_view = compare(rendering, image, mask, K, LensModel(terms, is_equidistant))
        # Downsample the full-size rendering, because the rasterizer's blur would grow with the pixel size.
        return rendered_view.downsampled(math.ceil(math.log2(max(1, max(width, height) / max_size))))

    return render_view


@torch.no_grad()
def adjust_cameras(
    model: NopeSplatModel, cameras: Cameras, batches: list[dict[str, Any]], single_step: bool = False
) -> JointResult:
    """Refine cameras and track points by minimizing reprojection errors and photometric errors.

    Gaussians do not change, except that Gaussians tied to track points move with the points.

    Args:
        model: The model, in training mode; its cameras and track points are updated in place.
        cameras: Cameras of the V training views, with the intrinsics of the reconstruction.
        batches: Batch of each of the V training views, from the data manager: a dictionary with the image and
            an optional mask.
        single_step: Whether to take at most one Levenberg-Marquardt step, for refinement at short intervals.
            Otherwise, several steps are taken, the first ones at lower image resolution.

    Returns:
        The refined bundle adjustment problem, the costs before and after each accepted step, and the fraction
        of the Fisher information about the poses that comes from photometric errors.
    """
    optimizer = model.camera_optimizer
    limits: dict[str, Any] = {"max_iterations": 1, "pyramid_levels": ()} if single_step else {}
    result = adjust_jointly(joint_problem(model), view_renderer(model, cameras, batches), **limits)
    poses = torch.linalg.inv(result.problem.T_camera_world)
    log_focal, shift, distortion = result.problem.intrinsics.split((1, 2, NUM_TERMS), 1)
    optimizer.set_cameras(switch_axes(poses)[:, :3], log_focal[:, 0].exp(), Lens(shift, distortion))
    model.track_positions().copy_(result.problem.points)
    optimizer.last_adjustment = {
        "adjustment_steps": len(result.costs),
        "adjustment_cost_change_percent": result.change_percent,
        "adjustment_photometric_share": result.photometric_share,
    }
    return result
