"""Depth losses of the joint objective, as pure functions.

After "NoPe-NeRF: Optimising Neural Radiance Field with No Pose Prior" (arXiv:2212.07388): monocular depth
maps supervise the rendered depth and the cameras. The scale and shift of each map are optimized. Camera
coordinates have OpenCV axes; the center of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.projection import project, unproject
from nope_splat.geometry.rigid import transform


@dataclass(frozen=True)
class DepthLossConfig:
    """Validity limits of the depth losses. Depths are in world units; the scene's median depth is one."""

    min_depth: float = 0.02
    """Smallest valid depth, of a corrected prior and of a rendering."""
    max_depth: float = 50.0
    """Largest valid depth of a corrected prior. The sky is beyond it."""
    min_opacity: float = 0.5
    """Rendered opacity below which a pixel is ignored, because its depth is ill-defined."""


DEFAULT_LIMITS = DepthLossConfig()


class ImageView(NamedTuple):
    """Camera and pose of an image at the resolution of its depth map."""

    T_camera_world: Tensor
    """World-to-camera transform. (4, 4)."""
    focal: Tensor
    """Focal lengths along x and y, in pixels of the depth map. (2,)."""
    center: Tensor
    """Principal point, in pixels of the depth map. (2,)."""
    radial: Tensor | None = None
    """Radial distortion k1 and k2; None without distortion. (2,)."""

    def unproject(self, xy: Tensor, depth: Tensor) -> Tensor:
        """Unproject pixels (n, 2) at depths (n,) to world points (n, 3)."""
        in_camera = depth[:, None] * unproject(xy - self.center, self.focal, self.radial)
        return (in_camera - self.T_camera_world[:3, 3]) @ self.T_camera_world[:3, :3]

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project world points (n, 3) to pixels (n, 2) and depths (n,).

        Pixels are only meaningful where the depth is at least `DepthLossConfig.min_depth`.
        """
        in_camera = transform(self.T_camera_world, points)
        xy = project(in_camera, self.focal, self.radial, DEFAULT_LIMITS.min_depth) + self.center
        return xy, in_camera[:, 2]


def apply_scale_shift(values: Tensor, correction: Tensor) -> Tensor:
    """Apply the learned scale and shift to a depth prior: exp(a) v + b.

    Args:
        values: Values v of the prior: depth or inverse depth. (...).
        correction: Log scale a and shift b. (2,).

    Returns:
        Corrected values. (...).
    """
    return correction[0].exp() * values + correction[1]


def corrected_depth(
    values: Tensor, correction: Tensor, inverse: bool, config: DepthLossConfig = DEFAULT_LIMITS
) -> tuple[Tensor, Tensor]:
    """Convert a depth prior to depth by its learned scale and shift.

    Args:
        values: Values of the prior, NaN where unknown. (...).
        correction: Log scale a and shift b. (2,).
        inverse: Whether the values are inverse depths.
        config: Smallest and largest valid depth.

    Returns:
        Depth (...), one and without gradient where it is invalid, and the mask of valid depths (...).
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
    """Compute the L1 difference between the rendered depth and a depth prior.

    L_depth = mean |D - (exp(a) v + b)| for depth priors, and mean |1 / D - (exp(a) v + b)| for inverse-depth
    priors. The difference is taken in the quantity that the network predicts up to scale and shift, where its
    errors have the same size at all depths. At depth one, the scene's median depth, both forms have the same
    slope. Gaussians, cameras, a and b receive gradients.

    Args:
        rendered: Rendered depth D. (H, W).
        opacity: Rendered opacity. (H, W).
        values: Values v of the prior, NaN where unknown. (H, W).
        correction: Log scale a and shift b. (2,).
        inverse: Whether the values are inverse depths.
        config: Limits of opacity and depth. Pixels below them are ignored.

    Returns:
        Mean over the valid pixels; zero if there are none. ().
    """
    used = (
        (opacity.detach() > config.min_opacity) & values.isfinite() & (rendered.detach() > config.min_depth)
    )
    depth = rendered[used]
    difference = (1 / depth if inverse else depth) - apply_scale_shift(values[used], correction)
    return difference.abs().sum() / max(len(depth), 1)


def chamfer_loss(first: Tensor, second: Tensor) -> Tensor:
    """Compute the Chamfer distance between two point clouds.

    L_pc = mean_i min_j |p_i - q_j| + mean_j min_i |p_i - q_j|. The gradient keeps the nearest-neighbor
    assignment fixed, which is exact almost everywhere.

    Args:
        first: Points p. (n, 3).
        second: Points q. (m, 3).

    Returns:
        Distance in world units; zero if a cloud is empty. ().
    """
    if len(first) == 0 or len(second) == 0:
        return (first.sum() + second.sum()) * 0
    distances = torch.cdist(first.detach(), second.detach())
    to_second = first - second[distances.argmin(dim=1)]
    to_first = second - first[distances.argmin(dim=0)]
    return to_second.norm(dim=-1).mean() + to_first.norm(dim=-1).mean()
