"""Coverage of held-out views: pixels whose surface points are visible in training views."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from nope_splat.geometry.projection import perspective


class DepthViews(NamedTuple):
    """Depth maps and cameras of one or more views."""

    depth: Tensor
    """Depths along the optical axis (z), in world units; infinity for empty pixels. (..., H, W)."""
    T_world_camera: Tensor
    """Camera-to-world transforms, OpenCV axes. (..., 4, 4)."""
    K: Tensor
    """Intrinsic matrices, in pixels of the depth maps. (..., 3, 3)."""


def covered_pixels(
    view: DepthViews, train_views: DepthViews, min_views: int = 2, max_relative_depth_error: float = 0.05
) -> Tensor:
    """Find the pixels of a view whose surface points are visible in training views.

    A point is visible in a training view if it projects into the image and is not occluded. It is not
    occluded if its depth lies, with a tolerance, between the smallest and the largest depth of the training
    view's depth map in the 3 x 3 pixels around its projection.

    Args:
        view: The held-out view, without a batch axis.
        train_views: The training views, with one batch axis (V,).
        min_views: Minimum number of training views in which the surface point of a covered pixel is visible.
        max_relative_depth_error: Tolerance of the depth comparison, as a fraction of the depth in the depth
            map.

    Returns:
        True for covered pixels. (H, W), bool.
    """
    height, width = view.depth.shape
    rows, columns = (
        torch.arange(side, dtype=view.depth.dtype, device=view.depth.device) + 0.5 for side in (height, width)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(view.K).T
    finite = view.depth.isfinite()
    points = (rays * torch.where(finite, view.depth, 0.0)[..., None]) @ view.T_world_camera[:3, :3].T
    points = points + view.T_world_camera[:3, 3]
    farthest = max_pool2d(train_views.depth[:, None], 3, 1, 1)[:, 0]
    nearest = -max_pool2d(-train_views.depth[:, None], 3, 1, 1)[:, 0]
    num_views = torch.zeros_like(view.depth, dtype=torch.long)
    low, high = 1 - max_relative_depth_error, 1 + max_relative_depth_error
    for far, near, pose, K in zip(farthest, nearest, train_views.T_world_camera, train_views.K, strict=True):
        in_camera = (points - pose[:3, 3]) @ pose[:3, :3]
        z = in_camera[..., 2]
        projected = in_camera @ K.T
        column, row = perspective(projected).floor().unbind(-1)
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < far.shape[1]) & (row < far.shape[0])
        index = torch.where(inside, row * far.shape[1] + column, 0).long()
        near, far = near.reshape(-1)[index], far.reshape(-1)[index]
        num_views += inside & (z > near * low) & (z < far * high)
    return finite & (num_views >= min_views)
