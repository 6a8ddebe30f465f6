"""Coupling of cameras that share a lens: equal distortion and principal point, at different focal lengths.

A digital zoom enlarges the center of the image. It multiplies the focal length f and the principal point
offset (dx, dy) by the same factor, and leaves the distortion unchanged. Cameras that differ by a digital zoom
therefore have the same lens parameters (dx / f, dy / f, k1, k2, k3, k4, p1, p2).
"""

from __future__ import annotations

import torch
from torch import Tensor

COUPLING_SIGMA = 1e-6
"""Standard deviation of the difference between lens parameters of cameras that share a lens."""


def lens_parameters(intrinsics: Tensor) -> Tensor:
    """Convert intrinsics [log(f), dx, dy, ...] to lens parameters [dx / f, dy / f, ...].

    The distortion coefficients, which follow, stay unchanged. (K, 9) -> (K, 8).
    """
    log_focal, offset, distortion = intrinsics[:, :1], intrinsics[:, 1:3], intrinsics[:, 3:]
    return torch.cat([offset * (-log_focal).exp(), distortion], 1)


def lens_jacobian(intrinsics: Tensor) -> Tensor:
    """Compute the derivatives of `lens_parameters` with respect to the intrinsics. (K, 9) -> (K, 8, 9)."""
    parameters = lens_parameters(intrinsics)
    identity = torch.eye(intrinsics.shape[1], dtype=intrinsics.dtype, device=intrinsics.device)
    jacobian = identity[1:].repeat(len(intrinsics), 1, 1)
    jacobian[:, :2, 0] = -parameters[:, :2]
    inverse_focal = (-intrinsics[:, 0]).exp()
    jacobian[:, 0, 1] = jacobian[:, 1, 2] = inverse_focal
    return jacobian


def coupling_residuals(intrinsics: Tensor, lens_ids: Tensor) -> Tensor:
    """Compute the differences between each camera and the first camera with the same lens.

    Args:
        intrinsics: Intrinsics of each camera, as in `BundleProblem`. (K, 9).
        lens_ids: For each camera, the index of the first camera with the same lens. (K,).

    Returns:
        Differences of the lens parameters, in units of `COUPLING_SIGMA`. (K, 8).
    """
    parameters = lens_parameters(intrinsics)
    return (parameters - parameters[lens_ids]) / COUPLING_SIGMA


def coupling_equations(intrinsics: Tensor, lens_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the Gauss-Newton normal equations of the sum of the squared `coupling_residuals`.

    Args:
        intrinsics: Intrinsics of each camera, as in `BundleProblem`. (K, 9).
        lens_ids: For each camera, the index of the first camera with the same lens. (K,).

    Returns:
        Matrix (9 K, 9 K) and gradient (9 K,).
    """
    num_cameras, width = intrinsics.shape
    of_camera = lens_jacobian(intrinsics) / COUPLING_SIGMA
    shape = num_cameras, width - 1, num_cameras, width
    jacobian = torch.zeros(shape, dtype=intrinsics.dtype, device=intrinsics.device)
    cameras = torch.arange(num_cameras, device=intrinsics.device)
    jacobian[cameras, :, cameras] += of_camera
    jacobian[cameras, :, lens_ids] -= of_camera[lens_ids]
    rows = jacobian.reshape((width - 1) * num_cameras, width * num_cameras)
    return rows.T @ rows, rows.T @ coupling_residuals(intrinsics, lens_ids).flatten()
