"""Which pixels of a held-out image show what training images show as well."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from nope_splat.geometry.projection import perspective

TOLERANCE = 0.05
"""Largest difference of two depths of one surface point, as a share of the depth."""


def covered_pixels(
    depth: Tensor,
    T_world_camera: Tensor,
    K: Tensor,
    train_depths: Tensor,
    train_T_world_camera: Tensor,
    train_Ks: Tensor,
    min_views: int = 2,
) -> Tensor:
    """Pixels whose surface point lies in sight of training images.

    A training image sees the point if it falls into the image, and no nearer and no farther than the
    surface around that pixel (3 x 3) lies, within `TOLERANCE`. Depths count along the viewing direction;
    infinity where nothing is.

    Args:
        depth: Depth of the held-out view. (H, W).
        T_world_camera: Its camera-to-world transform, OpenCV axes. (4, 4).
        K: Its intrinsic matrix. (3, 3).
        train_depths: Depths of the training views. (V, h, w).
        train_T_world_camera: Their camera-to-world transforms. (V, 4, 4).
        train_Ks: Their intrinsic matrices. (V, 3, 3).
        min_views: Training images that must see a point.

    Returns:
        True where covered. (H, W), bool.
    """
    height, width = depth.shape
    rows, columns = (
        torch.arange(side, dtype=depth.dtype, device=depth.device) + 0.5 for side in (height, width)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(K).T
    finite = depth.isfinite()
    points = (rays * torch.where(finite, depth, 0.0)[..., None]) @ T_world_camera[:3, :3].T
    points = points + T_world_camera[:3, 3]
    farthest = max_pool2d(train_depths[:, None], 3, 1, 1)[:, 0]
    nearest = -max_pool2d(-train_depths[:, None], 3, 1, 1)[:, 0]
    views = torch.zeros_like(depth, dtype=torch.long)
    for far, near, pose, intrinsics in zip(farthest, nearest, train_T_world_camera, train_Ks, strict=True):
        seen = (points - pose[:3, 3]) @ pose[:3, :3]
        z = seen[..., 2]
        projected = seen @ intrinsics.T
        column, row = perspective(projected).floor().unbind(-1)
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < far.shape[1]) & (row < far.shape[0])
        index = torch.where(inside, row * far.shape[1] + column, 0).long()
        near, far = near.reshape(-1)[index], far.reshape(-1)[index]
        views += inside & (z > near * (1 - TOLERANCE)) & (z < far * (1 + TOLERANCE))
    return finite & (views >= min_views)
