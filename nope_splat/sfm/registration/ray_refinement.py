"""Poses of new images from the rays on which they see known points."""

from __future__ import annotations

import numpy as np

from nope_splat.geometry.rigid import move_poses, transform
from nope_splat.geometry.robust import cauchy_weight
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Indices

ITERATIONS = 10
"""Gauss-Newton steps; each goes most of the way."""
SCALE = 2.0
"""Distance from the ray, feature pixels, at which the weight of a point has fallen to a half."""


def refine_by_rays(state: SfmState, image_ids: Indices) -> None:
    """Bring the rays of images near to the points that they show; nothing else moves, in place.

    The consistency of points with camera rays is that of ZeroGS (Chen et al., arXiv 2411.15779, section 3):
    the distance of each point from the ray of its observation, here relative to the distance of the point,
    so that it is an angle, and under Cauchy's robust loss. All images are solved at once. They are
    independent problems near their minima, which need no damping: in `levenberg_marquardt`, with one cost
    for all, an image whose cost rises would hold up the others.

    Args:
        state: Registered images and points.
        image_ids: Registered images to refine by their inlier observations. (B,).
    """
    number = np.full(len(state.registered), -1)
    number[image_ids] = np.arange(len(image_ids))
    rows = np.flatnonzero(state.inlier & (number[state.image_ids] >= 0))
    cameras = number[state.image_ids[rows]]
    points = state.points[state.track_ids[rows]]
    rays = state.rays(state.xy[rows], state.image_ids[rows])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    focal = state.focal[state.camera_ids[state.image_ids[rows]], None]
    for _ in range(ITERATIONS):
        in_camera = transform(state.T_camera_world[image_ids][cameras], points)
        scale = focal / np.linalg.norm(in_camera, axis=1, keepdims=True)
        residual = scale * _across(rays, in_camera)
        # With Y' = exp(omega) Y + nu the derivatives of Y by omega and nu are -[Y]x and the identity.
        jacobian = np.zeros((len(rows), 3, 6))
        for axis, unit in enumerate(np.eye(3)):
            jacobian[:, :, axis] = scale * _across(rays, np.cross(unit, in_camera))
            jacobian[:, :, 3 + axis] = scale * _across(rays, unit)
        weight = cauchy_weight((residual**2).sum(axis=1), SCALE)
        normal = np.zeros((len(image_ids), 6, 6))
        gradient = np.zeros((len(image_ids), 6))
        np.add.at(normal, cameras, np.einsum("n,nki,nkj->nij", weight, jacobian, jacobian))
        np.add.at(gradient, cameras, np.einsum("n,nki,nk->ni", weight, jacobian, residual))
        # A trace on the diagonal keeps an image whose points lie on few rays where it is.
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(6) + 1e-12 * np.eye(6)
        step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
        state.T_camera_world[image_ids] = move_poses(state.T_camera_world[image_ids], step)


def _across(rays: Array, vectors: Array) -> Array:
    """The part of vectors across unit rays. (n, 3), (n, 3) or (3,) -> (n, 3)."""
    return vectors - (vectors * rays).sum(axis=1, keepdims=True) * rays
