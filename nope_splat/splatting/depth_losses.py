"""The depth terms of the joint objective, as pure functions.

After "NoPe-NeRF: Optimizing Neural Radiance Field with No Pose Prior" (arXiv:2212.07388): depth maps of
single images, each with its own scale and shift, which are optimized, supervise the rendered depth and
the cameras. Camera coordinates have OpenCV axes; the center of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from nope_splat.geometry.projection import project, unproject
from nope_splat.geometry.rigid import transform

NEAREST, FARTHEST = 0.02, 50.0
"""Depths (median scene depth is one) beyond which a corrected prior says nothing, such as in the sky."""
MIN_OPACITY = 0.5
"""Pixels that let more background through have no depth to speak of."""


class ImageView(NamedTuple):
    """Camera of one image at the resolution of its depth map."""

    T_camera_world: Tensor
    """World-to-camera transform. (4, 4)."""
    focal: Tensor
    """Focal lengths along x and y in pixels of the map. (2,)."""
    center: Tensor
    """Principal point in pixels of the map. (2,)."""
    radial: Tensor | None = None
    """Distortion k1 and k2, if any. (2,)."""

    def lift(self, xy: Tensor, depth: Tensor) -> Tensor:
        """World points of pixels (n, 2) at depths (n,). (n, 3)."""
        in_camera = depth[:, None] * unproject(xy - self.center, self.focal, self.radial)
        return (in_camera - self.T_camera_world[:3, 3]) @ self.T_camera_world[:3, :3]

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (n, 2) and depths (n,) of world points (n, 3); pixels mean nothing where depth is small."""
        in_camera = transform(self.T_camera_world, points)
        return project(in_camera, self.focal, self.radial, NEAREST) + self.center, in_camera[:, 2]


def correct(values: Tensor, correction: Tensor) -> Tensor:
    """The learned scale and shift of a prior: exp(a) v + b.

    Args:
        values: Depth or, of priors of disparity, inverse depth. (...).
        correction: Logarithm a of the scale, and shift b. (2,).

    Returns:
        Corrected values. (...).
    """
    return correction[0].exp() * values + correction[1]


def corrected_depth(values: Tensor, correction: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Depth of a corrected prior.

    Args:
        values: As of `correct`, NaN where unknown. (...).
        correction: As of `correct`. (2,).
        inverse: Whether the values are inverse depths.

    Returns:
        Depth, and whether it is known and believable; where it is not, it is one and has no gradient.
        (...), (...).
    """
    corrected = correct(values, correction)
    low, high = (1 / FARTHEST, 1 / NEAREST) if inverse else (NEAREST, FARTHEST)
    known = (corrected > low) & (corrected < high)  # False for NaN
    safe = torch.where(known, corrected, torch.ones_like(corrected))
    return 1 / safe if inverse else safe, known


def depth_consistency_loss(
    rendered: Tensor, opacity: Tensor, values: Tensor, correction: Tensor, inverse: bool
) -> Tensor:
    """Difference between the rendered depth and the corrected prior.

    L_depth = mean |D - (exp(a) v + b)| for priors of depth, and mean |1 / D - (exp(a) v + b)| for those of
    disparity: differences count where the prior is affine, which is where its errors are alike near and far.
    At depth one, the median depth of the scene, both are the same. Gaussians, cameras, a and b receive
    gradients.

    Args:
        rendered: Rendered depth D. (H, W).
        opacity: Rendered opacity; pixels that are hardly opaque do not count. (H, W).
        values: Values v of the prior, NaN where unknown. (H, W).
        correction: Logarithm a of the scale, and shift b. (2,).
        inverse: Whether the values are inverse depths.

    Returns:
        Mean over the pixels that count; zero if there are none. ().
    """
    used = (opacity.detach() > MIN_OPACITY) & values.isfinite() & (rendered.detach() > NEAREST)
    depth = rendered[used]
    difference = (1 / depth if inverse else depth) - correct(values[used], correction)
    return difference.abs().sum() / max(len(depth), 1)


def chamfer_loss(first: Tensor, second: Tensor) -> Tensor:
    """Chamfer distance between two clouds of points.

    L_pc = mean_i min_j |p_i - q_j| + mean_j min_i |p_i - q_j|. Which points are nearest is held constant in
    the gradient, as it is almost everywhere.

    Args:
        first: Points p. (n, 3).
        second: Points q. (m, 3).

    Returns:
        The distance in world units; zero where a cloud is empty. ().
    """
    if len(first) == 0 or len(second) == 0:
        return (first.sum() + second.sum()) * 0
    distances = torch.cdist(first.detach(), second.detach())
    to_second = first - second[distances.argmin(dim=1)]
    to_first = second - first[distances.argmin(dim=0)]
    return to_second.norm(dim=-1).mean() + to_first.norm(dim=-1).mean()


def surface_loss(colors: Tensor, image: Tensor, xy: Tensor) -> Tensor:
    """Color difference between pixels of one image and where another shows the same surface.

    L_rgb-s = mean |I_i(x) - I_j(π_j(X(x)))|_1, with the surface points X of the corrected prior of image
    i. Points that another surface hides in image j are not told apart.

    Args:
        colors: Colors I_i of the pixels, in [0, 1]. (n, 3).
        image: The other image I_j, in [0, 1]. (H, W, 3).
        xy: Where it shows their surface points, pixels; those outside do not count. (n, 2).

    Returns:
        Mean over pixels and channels; zero if none count. ().
    """
    size = xy.new_tensor([image.shape[1], image.shape[0]])
    inside = ((xy > 0.5) & (xy < size - 0.5)).all(-1)
    place = (2 * xy[inside] / size - 1)[None, None]
    seen = grid_sample(image.movedim(-1, 0)[None], place, align_corners=False)[0, :, 0].T
    return (seen - colors[inside]).abs().sum() / max(3 * len(seen), 1)
