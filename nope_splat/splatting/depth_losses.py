"""Depth losses that supervise rendered depth and cameras with monocular depth maps, as pure functions.

The losses follow "NoPe-NeRF: Optimising Neural Radiance Field with No Pose Prior" (arXiv:2212.07388). The
scale and shift of each depth map are optimized with the scene. Camera coordinates have OpenCV axes; the
center of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.projection import LensModel, project, unproject
from nope_splat.geometry.rigid import transform


@dataclass(frozen=True)
class DepthLossConfig:
    """Limits of valid depths and opacities in the depth losses.

    Depths are in world units; the scene's median depth is one.
    """

    min_depth: float = 0.02
    """Smallest valid depth, in world units. The depth loss ignores pixels with a smaller rendered depth; the
    Chamfer loss ignores pixels with a smaller monocular depth after scale and shift."""
    max_depth: float = 50.0
    """Largest valid depth of a monocular depth map after scale and shift, in world units. The Chamfer loss
    ignores pixels with a larger depth, such as sky."""
    min_opacity: float = 0.5
    """Pixels with at most this rendered opacity are ignored, because their rendered depth is ill-defined."""


DEFAULT_LIMITS = DepthLossConfig()


class ImageView(NamedTuple):
    """Intrinsics and pose of an image, at the resolution of its depth map."""

    T_camera_world: Tensor
    """World-to-camera transform. (4, 4)."""
    focal: Tensor
    """Focal lengths along x and y, in pixels of the depth map. (2,)."""
    center: Tensor
    """Principal point (x, y), in pixels of the depth map. (2,)."""
    lens: LensModel | None = None
    """Projection and distortion; None for a pinhole camera without distortion."""

    def unproject(self, xy: Tensor, depth: Tensor) -> Tensor:
        """Unproject pixels xy (n, 2) at depths (n,) to points in world coordinates (n, 3).

        Depth is measured along the optical axis, so that the rays of all pixels must lie in front of the
        camera.
        """
        rays = unproject(xy - self.center, self.focal, self.lens)
        if self.lens is not None and self.lens.has_fisheye:
            rays = rays / rays[:, 2:]
        in_camera = depth[:, None] * rays
        return (in_camera - self.T_camera_world[:3, 3]) @ self.T_camera_world[:3, :3]

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project points in world coordinates (n, 3) to pixels (n, 2) and depths (n,).

        Pixel coordinates are valid only for points with a depth of at least 0.02 world units, the default
        `DepthLossConfig.min_depth`.
        """
        in_camera = transform(self.T_camera_world, points)
        xy = project(in_camera, self.focal, self.lens, DEFAULT_LIMITS.min_depth) + self.center
        return xy, in_camera[:, 2]


def apply_scale_shift(values: Tensor, correction: Tensor) -> Tensor:
    """Apply the learned scale and shift to the values of a monocular depth map: exp(a) v + b.

    Args:
        values: Values v of the depth map: depth or inverse depth. (...).
        correction: Log scale a and shift b. (2,).

    Returns:
        Corrected values: depth in world units, or inverse depth in inverse world units. (...).
    """
    return correction[0].exp() * values + correction[1]


def corrected_depth(
    values: Tensor, correction: Tensor, inverse: bool, config: DepthLossConfig = DEFAULT_LIMITS
) -> tuple[Tensor, Tensor]:
    """Convert the values v of a monocular depth map to depth, with the learned scale and shift.

    The depth is exp(a) v + b, or 1 / (exp(a) v + b) if the values are inverse depths.

    Args:
        values: Values v of the depth map: depth or inverse depth, up to scale and shift; NaN for unknown
            values. (...).
        correction: Log scale a and shift b. (2,).
        inverse: Whether the values are inverse depths.
        config: Smallest and largest valid depth.

    Returns:
        Depth in world units (...), and a boolean mask of valid depths (...). Invalid depths are set to one
        and have no gradient.
    """
    corrected = apply_scale_shift(values, correction)
    low, high = config.min_depth, config.max_depth
    if inverse:
        low, high = 1 / high, 1 / low
    valid = (corrected > low) & (corrected < high)  # False for NaN
    safe = torch.where(valid, corrected, torch.ones_like(corrected))
    return 1 / safe if inverse else safe, valid


def depth_consistency_loss(
    rendered: Tensor,
    opacity: Tensor,
    values: Tensor,
    correction: Tensor,
    inverse: bool,
    config: DepthLossConfig = DEFAULT_LIMITS,
) -> Tensor:
    """Compute the mean absolute difference between the rendered depth and a monocular depth map.

    L_depth = mean |D - (exp(a) v + b)| if the depth map contains depths v, and mean |1 / D - (exp(a) v + b)|
    if it contains inverse depths v. The difference is computed in the quantity that the network predicts up
    to scale and shift, because the network's errors in that quantity do not depend on the depth. At depth
    one, the scene's median depth, the residuals of both forms have the same derivative with respect to D
    except for the sign. Gaussians, cameras, a and b receive gradients.

    Args:
        rendered: Rendered depth D, in world units. (H, W).
        opacity: Rendered opacity, 0 to 1. (H, W).
        values: Values v of the depth map, NaN for unknown values. (H, W).
        correction: Log scale a and shift b. (2,).
        inverse: Whether the values are inverse depths.
        config: Smallest valid opacity and rendered depth. Pixels at or below one of these limits are ignored.

    Returns:
        Mean over the valid pixels; zero if no pixel is valid. ().
    """
    used = (
        (opacity.detach() > config.min_opacity) & values.isfinite() & (rendered.detach() > config.min_depth)
    )
    depth = rendered[used]
    difference = (1 / depth if inverse else depth) - apply_scale_shift(values[used], correction)
    return difference.abs().sum() / max(len(depth), 1)


def chamfer_loss(first: Tensor, second: Tensor) -> Tensor:
    """Compute the symmetric Chamfer distance between two point clouds.

    L_pc = mean_i min_j |p_i - q_j| + mean_j min_i |p_i - q_j|. The gradient keeps the nearest-neighbor
    assignment fixed, which is exact almost everywhere.

    Args:
        first: Points p, in world coordinates. (n, 3).
        second: Points q, in world coordinates. (m, 3).

    Returns:
        Distance in world units; zero if a cloud is empty. ().
    """
    if len(first) == 0 or len(second) == 0:
        return (first.sum() + second.sum()) * 0
    distances = torch.cdist(first.detach(), second.detach())
    to_second = first - second[distances.argmin(dim=1)]
    to_first = second - first[distances.argmin(dim=0)]
    return to_second.norm(dim=-1).mean() + to_first.norm(dim=-1).mean()
