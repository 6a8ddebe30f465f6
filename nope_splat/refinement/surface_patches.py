"""Surface patches with free displacements, eliminated from the photometric equations of the cameras.

The Gaussians were optimized with the cameras that are now refined. Fixed Gaussians would act as ground
control points: they would hold the cameras at wrong poses, or bias the poses by errors that all views share.
Bundle adjustment eliminates free points; here the surface is divided into patches around track points, and
each patch has a free displacement, a 3D vector in world units. The photometric normal equations have the
blocks U (cameras), W (cameras by displacements) and V (displacements), and the gradients a (cameras) and b
(displacements). With the information matrix Q of the prior on the displacements, the reduced normal equations
of the cameras have the matrix S and the gradient s:

    S = U - W (V + Q)^-1 W^T,     s = a - W (V + Q)^-1 b,

and the displacements lower the cost by b^T (V + Q)^-1 b.

By default, the prior of every view has a standard deviation of one pixel perpendicular to the viewing ray and
of ten pixels along the ray. The prior matters only for unknowns that the images do not determine: the
position of all cameras and patches together, and the displacements of patches that have no texture or are
visible in a single view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor

from nope_splat.refinement.photometric import PixelEquations, RenderedView

MAX_DISTANCES = 2**26
"""Maximum number of distances computed at once on a GPU, which limits memory to 256 MB."""
TRANSLATION = slice(3, 6)
"""Indices of the camera translation among the variables of `motion_on_plane`. The derivatives with respect to
the translation are also those with respect to a displacement of the surface in camera coordinates, because
both add the same vector to the camera coordinates of a point."""


@dataclass(frozen=True)
class SurfacePatchOptions:
    """Number of surface patches, and the prior on their displacements."""

    max_num_patches: int = 1000
    """Maximum number of surface patches in the scene. About a hundred per view suffice; more patches change
    the result little and take longer."""
    sigma: float = 1.0
    """Standard deviation of the prior on a patch's displacement perpendicular to the viewing ray, in pixels
    at the depth of the patch. Smaller values hold the surface closer to the Gaussians."""
    ray_sigma: float = 10.0
    """Standard deviation of the prior on a patch's displacement along the viewing ray, in pixels at the depth
    of the patch. Smaller values hold the surface closer to the Gaussians."""


@dataclass(frozen=True)
class PatchEquations:
    """Blocks of the photometric normal equations of one view that involve the displacements of P patches.

    A displacement is a 3D vector in world coordinates, in world units.
    """

    coupling: Tensor
    """Blocks between the N camera variables of the view and each displacement. (P, N, 3), float64."""
    matrix: Tensor
    """Diagonal block of each displacement. (P, 3, 3), float64."""
    prior: Tensor
    """Information matrix of the prior on each displacement. (P, 3, 3), float64."""
    gradient: Tensor
    """Gradient of the cost with respect to each displacement. (P, 3), float64."""


def nearest_centers(points: Tensor, centers: Tensor) -> Tensor:
    """Find the nearest center of each point by brute force.

    Args:
        points: Points. (N, 3).
        centers: Centers, on the same device as the points. (M, 3).

    Returns:
        Index of the nearest center of each point. (N,), int64.
    """
    # Compute distances from differences: expanding the squares would cancel digits, and a GPU may round
    # products to TF32.
    compute_mode = "donot_use_mm_for_euclid_dist"
    chunks = points.split(max(MAX_DISTANCES // len(centers), 1))
    return torch.cat(
        [torch.cdist(chunk, centers, compute_mode=compute_mode).argmin(dim=1) for chunk in chunks]
    )


class SurfacePatches:
    """Partition of the surface into patches; each surface point belongs to the patch with the nearest center.

    Args:
        points: Track points in world coordinates, from which the patch centers are sampled. (M, 3).
        options: Number of patches and prior on their displacements.
    """

    def __init__(self, points: Tensor, options: SurfacePatchOptions = SurfacePatchOptions()) -> None:
        self.options = options
        count = min(len(points), options.max_num_patches)
        sample = torch.linspace(0, len(points) - 1, count, device=points.device).long()
        self._centers = points[sample]
        # On a GPU, brute force is faster than a tree on one CPU core.
        self._tree = KDTree(self._centers.numpy()) if points.device.type == "cpu" else None

    def __len__(self) -> int:
        return len(self._centers)

    def patches_of_pixels(self, view: RenderedView, T_camera_world: Tensor) -> Tensor:
        """Find the surface patch of each used pixel of a view.

        Args:
            view: Rendering of the view.
            T_camera_world: World-to-camera transform of the view. (4, 4).

        Returns:
            Index of the patch of each of the N used pixels. (N,), int64.
        """
        points_camera = view.points().to(T_camera_world)
        world = (points_camera - T_camera_world[:3, 3]) @ T_camera_world[:3, :3]
        if self._tree is not None:
            return torch.from_numpy(self._tree.query(world.numpy())[1])
        return nearest_centers(world.float(), self._centers.float())

    def equations(
        self, pixels: PixelEquations, patch_ids: Tensor, T_camera_world: Tensor, is_fisheye: bool = False
    ) -> PatchEquations:
        """Sum the photometric equations of a view's pixels by patch.

        Args:
            pixels: Equations of the used pixels.
            patch_ids: Index of the patch of each of the N pixels, from `patches_of_pixels`. (N,).
            T_camera_world: World-to-camera transform of the view. (4, 4).
            is_fisheye: Whether the projection of the view is equidistant instead of perspective.

        Returns:
            Blocks of the normal equations for each patch. Displacements are in world coordinates.
        """
        rotation, count = T_camera_world[:3, :3].double(), len(self)
        coupling = rotation.new_zeros(count, pixels.jacobian.shape[-1], 3)
        prior, gradient = rotation.new_zeros(count, 3, 3), rotation.new_zeros(count, 3)
        unit = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
        # Rounding errors of single precision would exceed the prior along the rays, where pixels give no
        # information.
        for rows, part in pixels.in_double():
            motion, ids = part.jacobian[..., TRANSLATION], patch_ids[rows]
            coupling.index_add_(0, ids, part.jacobian.mT @ (part.tensor @ motion))
            gradient.index_add_(0, ids, (motion.mT @ part.vector[..., None]).squeeze(-1))
            # Squared pixels per world unit: (f / z)^2 or, for fisheye lenses, about (f / distance)^2.
            density = motion.square().sum((1, 2)) / 2 if is_fisheye else motion[:, 0, 0].square()
            isotropic = density[:, None, None] * unit
            across = motion.mT @ motion / self.options.sigma**2
            prior.index_add_(0, ids, across + isotropic / self.options.ray_sigma**2)
        prior /= torch.bincount(patch_ids, minlength=count).clamp(min=1)[:, None, None]
        return PatchEquations(
            coupling=coupling @ rotation,
            matrix=rotation.T @ coupling[:, TRANSLATION] @ rotation,
            prior=rotation.T @ prior @ rotation,
            gradient=gradient @ rotation,
        )
