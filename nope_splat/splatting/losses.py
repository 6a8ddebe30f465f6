"""Photometric and track losses of the joint objective, as pure functions.

L = (1 - λ) L1 + λ D-SSIM + w_2d L_t2d + w_3d L_t3d + w_scale L_scale,
after "No Parameters, No Problem: 3D Gaussian Splatting without Camera Intrinsics and Extrinsics" (TrackGS,
arXiv:2502.19800). Camera coordinates have OpenCV axes; the images of a camera share its focal length f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import transform
from nope_splat.geometry.robust import huber_cost
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.rasterizer import ssim


@dataclass(frozen=True)
class TrackLossConfig:
    """Numbers of the track losses."""

    huber_delta: float = 1.0
    """Threshold δ of the Huber function in pixels. Larger residuals count linearly."""
    near_plane: float = 1e-3
    """Depth below which an observation is ignored. The scene's median depth is one."""


DEFAULTS = TrackLossConfig()


class TrackObservations(NamedTuple):
    """Observations of the track points in the training views, as a table of O rows."""

    point_ids: Tensor
    """Index of the track point. (O,), int64."""
    view_ids: Tensor
    """Index of the training view. (O,), int64."""
    xy: Tensor
    """Position relative to the principal point, in pixels of the full-resolution image. (O, 2)."""
    sigma: Tensor
    """Standard deviation of `xy` per axis, in pixels. (O,)."""

    def to(self, device: torch.device) -> TrackObservations:
        """Move all columns to a device."""
        return TrackObservations(*(field.to(device) for field in self))


def track_2d_loss(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
    config: TrackLossConfig = DEFAULTS,
) -> Tensor:
    """Compute the reprojection error of the track points.

    L_t2d = 1/|O| Σ_(i,j) huber(‖π(T_j X_i) - x_ij‖), with π(X) = f (X_x, X_y) / X_z and a Huber threshold
    δ of one pixel by default. Poses, focal length and points receive gradients.

    Args:
        points: Track points X in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all.
        observations: Observations x. Points behind the camera are ignored.
        lens: Learned principal-point shift and distortion of the training views, part of π. (V, 2) each.
        config: Huber threshold and near plane.

    Returns:
        Mean over the observations, in pixels. ().
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
    """Compute the distance between unprojected observations and their track points.

    L_t3d = 1/|O| Σ_(i,j) huber(f ‖T_j⁻¹ (d_ij K⁻¹ x_ij) - X_i‖): each observation, unprojected at the depth
    d_ij = (T_j X_i)_z of its track point, should coincide with that point. Multiplying the world distance by
    f converts it to pixels at depth one, the median depth of the scene, so that the loss has the scale of
    `track_2d_loss`. Compared with that loss, distant observations have more weight.

    The world distance is the reprojection residual times d_ij / f. Differentiating this factor would let the
    loss decrease by shrinking the scene, without a better fit. It is therefore treated as constant: d_ij
    ‖π(T_j X_i) - x_ij‖ has the same value, but not that gradient.

    Args:
        points: Track points X in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all.
        observations: Observations x. Points behind the camera are ignored.
        lens: Learned principal-point shift and distortion, see `track_2d_loss`.
        config: Huber threshold and near plane.

    Returns:
        Mean over the observations, in pixels at depth one. ().
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
    """Compute the reprojection error of each observation. The arguments are those of `track_2d_loss`.

    Returns:
        Errors in full-resolution pixels, zero for points behind the camera. (O,).
    """
    near_plane = DEFAULTS.near_plane
    residuals, _ = _reprojection(points, T_camera_world, focal, observations, lens, near_plane)
    return residuals.norm(dim=-1)


def scale_loss(scales: Tensor) -> Tensor:
    """Compute the mean scale of the track Gaussians.

    L_scale = 1/|G| Σ_g mean(s_g) shrinks the Gaussians that are tied to track points, so that their centers
    lie on the surface. The gradient with respect to the log scales, which are optimized, is proportional to
    the scale: large Gaussians shrink and small ones hardly change.

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

    (1 - λ) ‖Î - I‖₁ + λ (1 - SSIM(Î, I)), with the mean absolute difference as the L1 term.

    Args:
        rendered: Rendered image Î. (H, W, 3), in [0, 1].
        image: Image I. (H, W, 3), in [0, 1].
        ssim_lambda: Weight λ of the SSIM term.
        mask: False for pixels to ignore. (H, W, 1), bool.

    Returns:
        Weighted mean. ().
    """
    if mask is not None:  # SSIM windows across the mask border must see no difference behind it
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
    """Compute residuals in pixels (O, 2), zero for points behind the camera, and depths (O, 1)."""
    in_camera = transform(T_camera_world[observations.view_ids], points[observations.point_ids])
    depths = in_camera[:, 2:]
    focals = focal.expand(len(T_camera_world))[observations.view_ids, None]
    if lens is None:
        projected = project(in_camera, focals, min_depth=near_plane)
    else:
        view_lens = lens.select(observations.view_ids)
        projected = project(in_camera, focals, view_lens.radial, near_plane) + view_lens.shift
    return torch.where(depths > near_plane, projected - observations.xy, 0.0), depths


def _huber(residuals: Tensor, delta: float) -> Tensor:
    """Average the Huber function of the residual norms, quadratic up to `delta`. (O, D) -> ()."""
    return (0.5 * huber_cost(residuals.square().sum(dim=-1), delta)).mean()
