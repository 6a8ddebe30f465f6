"""Coupling of cameras that share a lens: equal distortion and principal point, at different focal lengths.

A digital zoom enlarges the center of the image. It multiplies the focal length f and the principal point
offset (dx, dy) by the same factor, and leaves the radial distortion k1, k2 unchanged. Cameras that differ by
a digital zoom therefore have the same lens parameters (dx / f, dy / f, k1, k2).
"""

from __future__ import annotations

import torch
from torch import Tensor

COUPLING_SIGMA = 1e-6
"""Standard deviation of the difference between lens parameters of cameras that share a lens."""


def lens_parameters(intrinsics: Tensor) -> Tensor:
    """Convert intrinsics [log(f), dx, dy, k1, k2] to lens parameters [dx / f, dy / f, k1, k2].

    (K, 5) -> (K, 4).
    """
    log_focal, offset, radial = intrinsics.split((1, 2, 2), 1)
    return torch.cat([offset * (-log_focal).exp(), radial], 1)


def lens_jacobian(intrinsics: Tensor) -> Tensor:
    """Compute the derivatives of `lens_parameters` with respect to the intrinsics. (K, 5) -> (K, 4, 5)."""
    parameters = lens_parameters(intrinsics)
    jacobian = torch.zeros(len(intrinsics), 4, 5, dtype=intrinsics.dtype, device=intrinsics.device)
    jacobian[:, :2, 0] = -parameters[:, :2]
    inverse_focal = (-intrinsics[:, 0]).exp()
    jacobian[:, 0, 1] = jacobian[:, 1, 2] = inverse_focal
    jacobian[:, 2, 3] = jacobian[:, 3, 4] = 1
    return jacobian


def coupling_residuals(intrinsics: Tensor, lens_ids: Tensor) -> Tensor:
    """Compute the differences between each camera and the first camera with the same lens.

    Args:
        intrinsics: Intrinsics [log(f), dx, dy, k1, k2] of each camera. (K, 5).
        lens_ids: For each camera, the index of the first camera with the same lens. (K,).

    Returns:
        Differences of the lens parameters, in units of `COUPLING_SIGMA`. (K, 4).
    """
    parameters = lens_parameters(intrinsics)
    return (parameters - parameters[lens_ids]) / COUPLING_SIGMA


def coupling_equations(intrinsics: Tensor, lens_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the Gauss-Newton normal equations of the sum of the squared `coupling_residuals`.

    Args:
        intrinsics: Intrinsics [log(f), dx, dy, k1, k2] of each camera. (K, 5).
        lens_ids: For each camera, the index of the first camera with the same lens. (K,).

    Returns:
        Matrix (5 K, 5 K) and gradient (5 K,).
    """
    num_cameras = len(intrinsics)
    of_camera = lens_jacobian(intrinsics) / COUPLING_SIGMA
    jacobian = torch.zeros(num_cameras, 4, num_cameras, 5, dtype=intrinsics.dtype, device=intrinsics.device)
    cameras = torch.arange(num_cameras, device=intrinsics.device)
    jacobian[cameras, :, cameras] += of_camera
    jacobian[cameras, :, lens_ids] -= of_camera[lens_ids]
    rows = jacobian.reshape(4 * num_cameras, 5 * num_cameras)
    return rows.T @ rows, rows.T @ coupling_residuals(intrinsics, lens_ids).flatten()
