"""Photometric and track losses of the training objective, as pure functions.

L = (1 - λ) L1 + λ D-SSIM + w_2d L_t2d + w_3d L_t3d + w_scale L_scale,
with weights λ and w, and D-SSIM = 1 - SSIM, after "No Parameters, No Problem: 3D Gaussian Splatting
without Camera Intrinsics and Extrinsics" (TrackGS, arXiv:2502.19800). Camera coordinates have OpenCV axes;
all images of a camera share its focal length f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.projection import is_visible, project
from nope_splat.geometry.rigid import transform
from nope_splat.geometry.robust import huber_cost
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.rasterizer import ssim


@dataclass(frozen=True)
class TrackLossConfig:
    """Thresholds of the track losses."""

    huber_delta: float = 1.0
    """Threshold δ of the Huber loss in pixels. Residuals above it are treated as outliers and have a linear
    cost."""
    near_plane: float = 1e-3
    """Depth, in world units, at or below which observations of a point are ignored. The scene's median depth
    is one."""


DEFAULTS = TrackLossConfig()


class TrackObservations(NamedTuple):
    """The O observations of the track points in the training views."""

    point_ids: Tensor
    """Index of the track point of each observation. (O,), int64."""
    view_ids: Tensor
    """Index of the training view of each observation. (O,), int64."""
    xy: Tensor
    """Observed position (x, y) relative to the reconstruction's principal point, in pixels of the
    full-resolution image. (O, 2)."""
    sigma: Tensor
    """Standard deviation of `xy` along each axis, in full-resolution pixels. (O,)."""

    def to(self, device: torch.device) -> TrackObservations:
        """Copy all tensors to a device."""
        return TrackObservations(*(field.to(device) for field in self))


def track_2d_loss(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
    config: TrackLossConfig = DEFAULTS,
) -> Tensor:
    """Compute the mean robust reprojection error of the track points.

    L_t2d = 1/|O| Σ_(i,j) huber(‖π(T_j X_i) - x_ij‖) over the observations x_ij of point X_i in view j, with
    the projection π(X) = f (X_x, X_y) / X_z, or that of `lens`, and the world-to-camera transform T_j. Poses,
    focal lengths and points receive gradients.

    Args:
        points: Track points X in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all views.
        observations: Observations x of the track points; points that the lens cannot show contribute zero.
        lens: Principal-point offset, projection and distortion of each training view, applied in π; None for
            pinhole cameras.
        config: Huber threshold δ and near plane.

    Returns:
        Mean Huber loss over the observations, with residuals in pixels. ().
    """
    residuals, _ = _reprojection(points, T_camera_world, focal, observations, lens, config.near_plane)
    return _huber(residuals, config.huber_delta)


def track_3d_loss(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
    config: TrackLossConfig = DEFAULTS,
) -> Tensor:
    """Compute the mean robust distance between unprojected observations and their track points.

    L_t3d = 1/|O| Σ_(i,j) huber(f ‖T_j⁻¹ (d_ij K⁻¹ x_ij) - X_i‖): each observation x_ij is unprojected with
    the intrinsic matrix K at the depth d_ij = (T_j X_i)_z of its track point X_i, and should then coincide
    with X_i. For fisheye lenses, d_ij is the distance |T_j X_i| from the camera. Multiplying the world
    distance by the focal length f converts it to pixels at depth one, the median depth of the scene, so that
    the loss has the scale of `track_2d_loss`. Compared with `track_2d_loss`, distant points have more weight.

    The world distance is the reprojection residual times d_ij / f. If the factor d_ij had a gradient, the
    loss could decrease by shrinking the scene, without a better fit. The factor is therefore treated as
    constant.

    Args:
        points: Track points X in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all views.
        observations: Observations x of the track points; points that the lens cannot show contribute zero.
        lens: Principal-point offset, projection and distortion of each training view; None for pinhole
            cameras.
        config: Huber threshold δ and near plane.

    Returns:
        Mean Huber loss over the observations, with distances in pixels at depth one. ().
    """
    residuals, depths = _reprojection(points, T_camera_world, focal, observations, lens, config.near_plane)
    return _huber(depths.detach() * residuals, config.huber_delta)


def reprojection_errors(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
) -> Tensor:
    """Compute the reprojection error of each observation.

    Args:
        points: Track points in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all views.
        observations: Observations of the track points.
        lens: Principal-point offset, projection and distortion of each training view; None for pinhole
            cameras.

    Returns:
        Errors in full-resolution pixels; zero for points that the lens cannot show. (O,).
    """
    near_plane = DEFAULTS.near_plane
    residuals, _ = _reprojection(points, T_camera_world, focal, observations, lens, near_plane)
    return residuals.norm(dim=-1)


def scale_loss(scales: Tensor) -> Tensor:
    """Compute the mean scale of the Gaussians that are tied to track points.

    L_scale = 1/|G| Σ_g mean(s_g), with the set G of these Gaussians and the scales s_g of Gaussian g. The
    loss shrinks the Gaussians, so that their centers lie on the surface. The log scales are optimized, and
    the gradient with respect to a log scale is proportional to the scale: large Gaussians shrink fast and
    small Gaussians hardly change.

    Args:
        scales: Standard deviations along the axes of each Gaussian, in world units. (G, 3).

    Returns:
        Mean scale in world units. ().
    """
    return scales.mean()


def photometric_loss(
    rendered: Tensor, image: Tensor, ssim_lambda: float, mask: Tensor | None = None
) -> Tensor:
    """Compute the photometric loss of 3D Gaussian Splatting between a rendering and an image.

    The loss is (1 - λ) ‖Î - I‖₁ + λ (1 - SSIM(Î, I)), where ‖·‖₁ is the mean absolute value.

    Args:
        rendered: Rendered image Î. (H, W, 3), in [0, 1].
        image: Image I. (H, W, 3), in [0, 1].
        ssim_lambda: Weight λ of the SSIM term, 0 to 1; the L1 term has the weight 1 - λ.
        mask: False for pixels to ignore, which enter the means as if both images were equal there; None to
            use all pixels. (H, W, 1), bool.

    Returns:
        The loss. ().
    """
    if mask is not None:  # masked pixels must not differ, because SSIM windows reach across the mask border
        constant = rendered.detach()
        rendered, image = torch.where(mask, rendered, constant), torch.where(mask, image, constant)
    loss = (1 - ssim_lambda) * (rendered - image).abs().mean()
    if ssim_lambda:
        loss = loss + ssim_lambda * (1 - ssim(rendered, image))
    return loss


def _reprojection(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None,
    near_plane: float,
) -> tuple[Tensor, Tensor]:
    """Compute the reprojection residual and depth of each observation.

    Args:
        points: Track points in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels. (V,), or () for all views.
        observations: Observations of the track points.
        lens: Principal-point offset, projection and distortion of each view; None for pinhole cameras.
        near_plane: Depth or, for fisheye lenses, distance from the camera, in world units, at or below which
            the residual is set to zero.

    Returns:
        Residuals in pixels, zero for points that the lens cannot show (O, 2); and depths or, for fisheye
        lenses, distances from the camera, in world units (O, 1).
    """
    in_camera = transform(T_camera_world[observations.view_ids], points[observations.point_ids])
    depths = in_camera[:, 2:]
    visible = depths > near_plane
    focals = focal.expand(len(T_camera_world))[observations.view_ids, None]
    if lens is None:
        projected = project(in_camera, focals, min_depth=near_plane)
    else:
        view_lens = lens.select(observations.view_ids)
        projected = project(in_camera, focals, view_lens.model, near_plane) + view_lens.shift
        if view_lens.model.has_fisheye:
            is_fisheye = torch.as_tensor(view_lens.is_fisheye, device=depths.device)[..., None]
            depths = torch.where(is_fisheye, in_camera.norm(dim=-1, keepdim=True), depths)
            visible = (depths > near_plane) & is_visible(in_camera, view_lens.is_fisheye)[:, None]
    return torch.where(visible, projected - observations.xy, 0.0), depths


def _huber(residuals: Tensor, delta: float) -> Tensor:
    """Compute the mean Huber loss of residual norms: quadratic up to `delta`, linear above. (O, D) -> ()."""
    return (0.5 * huber_cost(residuals.square().sum(dim=-1), delta)).mean()
