"""The terms of the joint objective, as pure functions.

L = (1 - λ) L1 + λ D-SSIM + w_2d L_t2d + w_3d L_t3d + w_scale L_scale,
after "No Parameters, No Problem: 3D Gaussian Splatting without Camera Intrinsics and Extrinsics" (TrackGS,
arXiv:2502.19800). Camera coordinates have OpenCV axes; images of one camera share a focal length f.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import transform
from nope_splat.geometry.robust import huber_cost
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.rasterizer import ssim

NEAR = 1e-3
"""Depth (median scene depth is one) below which a point has no meaningful projection."""


class TrackObservations(NamedTuple):
    """Correspondences2d3d of track points in the training views."""

    point_ids: Tensor
    """Index of the track point. (O,), int64."""
    view_ids: Tensor
    """Index of the training view. (O,), int64."""
    xy: Tensor
    """Where the point is seen: pixels of the full-resolution image, from the principal point. (O, 2)."""
    sigma: Tensor
    """Standard deviation of that per axis, pixels. (O,)."""

    def to(self, device: torch.device) -> TrackObservations:
        """The same on a device."""
        return TrackObservations(*(field.to(device) for field in self))


def track_2d_loss(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
) -> Tensor:
    """Reprojection of the track points.

    L_t2d = 1/|O| Σ_(i,j) huber(‖π(T_j X_i) - x_ij‖), with π(X) = f (X_x, X_y) / X_z and the Huber function's
    bend at one pixel. It holds poses, focal length and points together: all three receive gradients.

    Args:
        points: Track points X in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all.
        observations: What to reproject; observations behind their camera do not count.
        lens: Learned lenses of the training views, if any, by which π shifts and bends. (V, 2) each.

    Returns:
        Mean over the observations, in pixels. ().
    """
    residuals, _ = _reprojection(points, T_camera_world, focal, observations, lens)
    return _huber(residuals)


def track_3d_loss(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
) -> Tensor:
    """Backprojection of the observations onto the track points.

    L_t3d = 1/|O| Σ_(i,j) huber(f ‖T_j⁻¹ (d_ij K⁻¹ x_ij) - X_i‖): each observation, lifted with the depth
    d_ij = (T_j X_i)_z of its track point, must land on that point. The world distance is measured in pixels
    at depth one, the median depth of the scene, which gives the loss the scale of `track_2d_loss`; beside
    it, it lets distant observations pull harder.

    The world distance is the reprojection residual times d_ij / f. Differentiated through that factor, the
    loss could be lowered without any better agreement, by a smaller scene or a longer focal length. So the
    factor is a constant here: d_ij ‖π(T_j X_i) - x_ij‖ has the value of the definition, but no such gradient.

    Args:
        points: Track points X in world coordinates. (P, 3).
        T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
        focal: Focal lengths in pixels of the full-resolution images. (V,), or () for all.
        observations: What to lift; observations behind their camera do not count.
        lens: As for `track_2d_loss`.

    Returns:
        Mean over the observations, in pixels at depth one. ().
    """
    residuals, depths = _reprojection(points, T_camera_world, focal, observations, lens)
    return _huber(depths.detach() * residuals)


def reprojection_errors(
    points: Tensor,
    T_camera_world: Tensor,
    focal: Tensor,
    observations: TrackObservations,
    lens: Lens | None = None,
) -> Tensor:
    """Distance of each projected track point from its observation; arguments as for `track_2d_loss`.

    Returns:
        Pixels of the full-resolution images, zero behind the camera. (O,).
    """
    residuals, _ = _reprojection(points, T_camera_world, focal, observations, lens)
    return residuals.norm(dim=-1)


def scale_loss(scales: Tensor) -> Tensor:
    """Size of the track Gaussians.

    L_scale = 1/|G| Σ_g mean(s_g): it drives the Gaussians that are tied to track points toward infinitesimal
    size, so that their centers lie on the surface. The scales are optimized as logarithms, in which its
    gradient fades with the size: it shrinks what is large and leaves what is already small alone.

    Args:
        scales: Standard deviations along the axes of each Gaussian, in world units. (G, 3).

    Returns:
        Mean size in world units. ().
    """
    return scales.mean()


def photometric_loss(
    rendered: Tensor, image: Tensor, ssim_lambda: float, mask: Tensor | None = None
) -> Tensor:
    """Difference between a rendering and an image.

    (1 - λ) ‖Î - I‖₁ + λ (1 - SSIM(Î, I)), the loss of 3D Gaussian Splatting.

    Args:
        rendered: Rendered image Î. (H, W, 3), in [0, 1].
        image: Image I. (H, W, 3), in [0, 1].
        ssim_lambda: Weight λ of the structural term.
        mask: True where the image counts. (H, W, 1), bool.

    Returns:
        The loss. ().
    """
    if mask is not None:  # windows of the structural term across its border see no difference behind it
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
) -> tuple[Tensor, Tensor]:
    """Residuals in pixels, zero behind the camera, and depths. (O, 2), (O, 1)."""
    in_camera = transform(T_camera_world[observations.view_ids], points[observations.point_ids])
    depths = in_camera[:, 2:]
    focals = focal.expand(len(T_camera_world))[observations.view_ids, None]
    if lens is None:
        projected = project(in_camera, focals, min_depth=NEAR)
    else:
        of_view = lens.of(observations.view_ids)
        projected = project(in_camera, focals, of_view.radial, NEAR) + of_view.shift
    return torch.where(depths > NEAR, projected - observations.xy, 0.0), depths


def _huber(residuals: Tensor) -> Tensor:
    """Mean Huber function of the residuals' lengths, quadratic up to one pixel. (O, D) to ()."""
    return (0.5 * huber_cost(residuals.square().sum(dim=-1), 1.0)).mean()
