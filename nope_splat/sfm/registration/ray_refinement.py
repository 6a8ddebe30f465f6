"""Refinement of the poses of new images by the distances of fixed points from viewing rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from nope_splat.geometry.rigid import move_poses, transform
from nope_splat.geometry.robust import cauchy_weight
from nope_splat.sfm.state import SfmState
from nope_splat.utils.ranges import COUNT, POSITIVE
from nope_splat.utils.typing import Array, Indices


@dataclass(frozen=True)
class RayRefinementOptions:
    """Options for refining the poses of new images by the distances of points from viewing rays."""

    max_num_iterations: Annotated[int, COUNT] = 10
    """Number of Gauss-Newton steps."""
    loss_scale: Annotated[float, POSITIVE] = 2.0
    """Width of the Cauchy loss, in pixels of the image in which keypoints are detected: a point at this
    distance from its ray has half the weight of a point on its ray."""


def refine_by_rays(
    state: SfmState, image_ids: Indices, options: RayRefinementOptions = RayRefinementOptions()
) -> None:
    """Refine poses by minimizing the distances of points from the viewing rays of their observations.

    The residuals follow ZeroGS (Chen et al., arXiv 2411.15779, section 3): the distance of each point from
    the ray of its observation. Here this distance is divided by the distance between point and camera, which
    gives an angle, and multiplied by the focal length, which gives pixels. The loss is the Cauchy loss.

    Each image is an independent problem. Poses are already near the minimum, so undamped Gauss-Newton steps
    suffice. `levenberg_marquardt` is not used because it has one cost for all images, so that an image with
    increasing cost would block the steps of all others.

    Args:
        state: State with registered images and points. Only the poses of `image_ids` change, in place.
        image_ids: Registered images whose poses are refined from their inlier observations. (B,).
        options: Number of steps and width of the loss.
    """
    number = np.full(len(state.registered), -1)
    number[image_ids] = np.arange(len(image_ids))
    rows = np.flatnonzero(state.inlier & (number[state.image_ids] >= 0))
    cameras = number[state.image_ids[rows]]
    points = state.points[state.track_ids[rows]]
    rays = state.rays(state.xy[rows], state.image_ids[rows])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    focal = state.focal[state.camera_ids[state.image_ids[rows]], None]
    for _ in range(options.max_num_iterations):
        points_camera = transform(state.T_camera_world[image_ids][cameras], points)
        scale = focal / np.linalg.norm(points_camera, axis=1, keepdims=True)
        residual = scale * _across(rays, points_camera)
        # For pose increments (see `move_poses`) Y' = exp([omega]x) Y + nu: dY/domega = -[Y]x and dY/dnu = I.
        jacobian = np.zeros((len(rows), 3, 6))
        for axis, unit in enumerate(np.eye(3)):
            jacobian[:, :, axis] = scale * _across(rays, np.cross(unit, points_camera))
            jacobian[:, :, 3 + axis] = scale * _across(rays, unit)
        weight = cauchy_weight((residual**2).sum(axis=1), options.loss_scale)
        normal = np.zeros((len(image_ids), 6, 6))
        gradient = np.zeros((len(image_ids), 6))
        np.add.at(normal, cameras, np.einsum("n,nki,nkj->nij", weight, jacobian, jacobian))
        np.add.at(gradient, cameras, np.einsum("n,nki,nk->ni", weight, jacobian, residual))
        # A small multiple of the trace keeps the equations solvable for images with too few points.
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(6) + 1e-12 * np.eye(6)
        step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
        state.T_camera_world[image_ids] = move_poses(state.T_camera_world[image_ids], step)


def _across(rays: Array, vectors: Array) -> Array:
    """Compute the component of vectors orthogonal to rays.

    Args:
        rays: Unit vectors. (n, 3).
        vectors: One vector per ray, or one for all rays. (n, 3) or (3,).

    Returns:
        Vectors orthogonal to the rays. (n, 3).
    """
    return vectors - (vectors * rays).sum(axis=1, keepdims=True) * rays
