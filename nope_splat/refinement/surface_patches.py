"""Patches of the surface that may move by themselves: what images say about cameras alone.

Gaussians have been fitted with the very cameras that they are to adjust. Held fixed, they would be taken for
surveyed landmarks: they hold the cameras where they are, or, being blurred or misplaced in the same way in
all views, pull them away. Bundle adjustment lets its points move and eliminates them; here the surface around
each of many track points is a patch that may be displaced as a whole. With the blocks U, W, V and gradients
a, b of the photometric equations by cameras and displacements, and Q their prior,

    S = U - W (V + Q)^-1 W^T,     s = a - W (V + Q)^-1 b

is what is left for the cameras, and b^T (V + Q)^-1 b what the displacements take off the cost.

The prior says that every view shows the patch where it is, within a pixel, and ten along its ray. It only
decides what the images cannot: the place of the whole, and of patches that one view sees or that have
no texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor

from nope_splat.refinement.photometric import PixelEquations, RenderedView

MAX_PATCHES = 1000
"""Enough for about a hundred in each view of a scene; results hardly depend on it from there on."""
SIGMA, RAY_SIGMA = 1.0, 10.0
"""Standard deviations of a patch's place in a view and along its ray, in pixels at its depth."""
BLOCK = 2**26
"""Distances that are in memory at once on a GPU: 256 MB."""
POSITION = slice(3, 6)
"""The camera's translation among the variables of `motion_on_plane`: a patch moves against it."""


@dataclass(frozen=True)
class PatchEquations:
    """Blocks of the normal equations of one view that displacements of P patches have a part in."""

    coupling: Tensor
    """By the N variables of the view and the displacement. (P, N, 3), float64."""
    matrix: Tensor
    """By the displacement. (P, 3, 3), float64."""
    prior: Tensor
    """Of the displacement. (P, 3, 3), float64."""
    gradient: Tensor
    """By the displacement. (P, 3), float64."""


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Find the nearest of some centers by comparing with all of them.

    Args:
        points: Points. (N, 3).
        centers: Centers, on the same device. (M, 3).

    Returns:
        Indices of the nearest centers. (N,), int64.
    """
    # By differences: the expansion into products cancels, and a GPU may round the products to TF32.
    exactly = "donot_use_mm_for_euclid_dist"
    blocks = points.split(max(BLOCK // len(centers), 1))
    return torch.cat([torch.cdist(block, centers, compute_mode=exactly).argmin(dim=1) for block in blocks])


class SurfacePatches:
    """The surface divided by its nearest track points.

    Args:
        points: Track points. (M, 3).
    """

    def __init__(self, points: Tensor) -> None:
        count = min(len(points), MAX_PATCHES)
        chosen = torch.linspace(0, len(points) - 1, count, device=points.device).long()
        self._centers = points[chosen]
        # A GPU compares with all centers faster than one core asks a tree.
        self._tree = KDTree(self._centers.numpy()) if points.device.type == "cpu" else None

    def __len__(self) -> int:
        return len(self._centers)

    def seen_in(self, view: RenderedView, T_camera_world: Tensor) -> Tensor:
        """Which patch each pixel that counts shows.

        Args:
            view: The rendering.
            T_camera_world: Its camera. (4, 4).

        Returns:
            Indices of patches. (N,), int64.
        """
        in_camera = (view.depth[view.used][:, None] * view.rays()).to(T_camera_world)
        world = (in_camera - T_camera_world[:3, 3]) @ T_camera_world[:3, :3]
        if self._tree is not None:
            return torch.from_numpy(self._tree.query(world.numpy())[1])
        return nearest(world.float(), self._centers.float())

    def equations(self, pixels: PixelEquations, patch_ids: Tensor, T_camera_world: Tensor) -> PatchEquations:
        """Sum the equations of a view's pixels by their patches.

        Args:
            pixels: What the pixels say.
            patch_ids: Their patches, as of `seen_in`. (N,).
            T_camera_world: Camera of the view. (4, 4).
        """
        rotation, count = T_camera_world[:3, :3].double(), len(self)
        coupling = rotation.new_zeros(count, pixels.jacobian.shape[-1], 3)
        prior, gradient = rotation.new_zeros(count, 3, 3), rotation.new_zeros(count, 3)
        unit = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
        # Single precision would drown the prior along the rays, of which pixels say nothing.
        for rows, part in pixels.in_double():
            motion, ids = part.jacobian[..., POSITION], patch_ids[rows]
            coupling.index_add_(0, ids, part.jacobian.mT @ (part.tensor @ motion))
            gradient.index_add_(0, ids, (motion.mT @ part.vector[..., None]).squeeze(-1))
            width = motion[:, 0, 0].square()[:, None, None] * unit
            prior.index_add_(0, ids, motion.mT @ motion / SIGMA**2 + width / RAY_SIGMA**2)
        prior /= torch.bincount(patch_ids, minlength=count).clamp(min=1)[:, None, None]
        return PatchEquations(
            coupling=coupling @ rotation,
            matrix=rotation.T @ coupling[:, POSITION] @ rotation,
            prior=rotation.T @ prior @ rotation,
            gradient=gradient @ rotation,
        )
