"""Refinement of the poses of new images by the distances of fixed points from viewing rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from nope_splat.sfm.ray_poses import refine_poses
from nope_splat.sfm.state import SfmState
from nope_splat.utils.ranges import COUNT, POSITIVE
from nope_splat.utils.typing import Indices


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
    poses = state.T_camera_world[image_ids]
    for _ in range(options.max_num_iterations):
        poses = refine_poses(poses, cameras, rays, points, focal, options.loss_scale)
    state.T_camera_world[image_ids] = poses
