"""Normal equations of bundle adjustment, in which the Schur complement eliminates the points."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from nope_splat.geometry.robust import huber_weight
from nope_splat.sfm.bundle_adjustment.lens_coupling import coupling_equations
from nope_splat.sfm.bundle_adjustment.problem import BundleProblem, BundleStep, Linearization

MAX_BORDER_SIZE = 10_000_000
"""Maximum number of elements of temporary arrays for the coupling of poses and intrinsics."""
TILE = 16
"""Number of observation pairs in one matrix product."""


class SchurStructure:
    """Sparsity of the reduced camera system: all pairs of observations of the same point.

    Pairs are sorted by their two images and split into tiles of `TILE` pairs. All pairs of a tile belong to
    the same two images, so that one matrix product sums their contributions. Incomplete tiles are padded with
    the index O, which refers to a row of zeros that `multiply` appends to the O observations.

    Args:
        problem: Image and point indices of the observations. Observations in images with fixed poses are
            skipped.
    """

    def __init__(self, problem: BundleProblem) -> None:
        num_images, num_observations = len(problem.T_camera_world), len(problem.xy)
        free = torch.nonzero(problem.free_poses[problem.image_ids]).squeeze(-1)
        order = free[torch.argsort(problem.point_ids[free], stable=True)]
        counts = torch.bincount(problem.point_ids[order], minlength=len(problem.points))
        # Each observation of a point forms pairs with all later observations of the point.
        position = torch.arange(len(order), device=order.device)
        partners = counts.cumsum(0)[problem.point_ids[order]] - position - 1
        first = position.repeat_interleave(partners)
        second = first + 1 + _index_within(partners)
        first, second = order[first], order[second]
        block = problem.image_ids[first] * num_images + problem.image_ids[second]

        by_block = torch.argsort(block, stable=True)
        counts = torch.bincount(block, minlength=num_images**2)
        tiles = (counts + TILE - 1) // TILE
        slot = ((tiles.cumsum(0) - tiles) * TILE).repeat_interleave(counts) + _index_within(counts)
        self.first = torch.full((int(tiles.sum()) * TILE,), num_observations, device=order.device)
        self.second = self.first.clone()
        self.first[slot] = first[by_block]
        self.second[slot] = second[by_block]
        self.tile_blocks = torch.arange(num_images**2, device=order.device).repeat_interleave(tiles)

    def multiply(self, left: Tensor, right: Tensor, num_images: int) -> Tensor:
        """Sum left_i right_j^T over all pairs (i, j) of observations of the same point, for each image pair.

        Two different observations of a point form one pair only, either (i, j) or (j, i).

        Args:
            left: Matrix left_i of each observation i. (O, 6, 3).
            right: Matrix right_j of each observation j. (O, 6, 3).
            num_images: Number of images N.

        Returns:
            The sums, indexed by the image of observation i, then by the image of observation j. (N, N, 6, 6).
        """

        def tiled(values: Tensor, index: Tensor) -> Tensor:
            rows = pad(values.mT.reshape(-1, 18), (0, 0, 0, 1))
            return rows.index_select(0, index).view(-1, 3 * TILE, 6)

        products = tiled(left, self.first).mT @ tiled(right, self.second)
        return _sum_by(products, self.tile_blocks, num_images**2).view(num_images, num_images, 6, 6)


class NormalEquations:
    """Normal equations with robust weights at one linearization point, to be solved with any damping.

    The variables of the cameras are the 6 variables of each of the N poses, followed by the C intrinsics
    `BundleProblem.columns` of each of the K cameras.

    Args:
        problem: Variables and observations.
        at: Linearization at the variables of `problem`.
        structure: Pairs of observations of the same point.
    """

    def __init__(self, problem: BundleProblem, at: Linearization, structure: SchurStructure) -> None:
        self.problem, self.structure = problem, structure
        num_images, num_points = len(problem.T_camera_world), len(problem.points)
        columns = problem.columns
        num_cameras, width = len(problem.intrinsics), len(columns)
        camera_ids = problem.camera_ids[problem.image_ids]
        weight = huber_weight(at.residuals.norm(dim=1), problem.huber).sqrt()
        residuals = weight[:, None, None] * at.residuals[:, :, None]
        a, b, g = (weight[:, None, None] * j for j in (at.by_pose, at.by_point, at.by_intrinsics))
        at_, bt, gt = a.mT, b.mT, g.mT

        def by_pose(values: Tensor) -> Tensor:
            return _sum_by(values, problem.image_ids, num_images)

        def by_point(values: Tensor) -> Tensor:
            return _sum_by(values, problem.point_ids, num_points)

        def by_intrinsics(values: Tensor) -> Tensor:
            return _sum_by(values, camera_ids, num_cameras)

        prior = problem.prior_sigma[:, columns] ** -2
        self.poses = by_pose(at_ @ a)
        self.poses_intrinsics = by_pose(at_ @ g)
        self.intrinsics = by_intrinsics(gt @ g) + torch.diag_embed(prior)
        self.points = by_point(bt @ b)
        self.poses_points = at_ @ b
        pairs = problem.point_ids * num_cameras + camera_ids
        self.intrinsics_points = _sum_by(gt @ b, pairs, num_points * num_cameras).view(
            num_points, num_cameras * width, 3
        )
        self.gradient_poses = by_pose(at_ @ residuals)
        self.gradient_points = by_point(bt @ residuals)
        self.gradient_intrinsics = (
            by_intrinsics(gt @ residuals).squeeze(-1)
            + prior * (problem.intrinsics - problem.prior_mean)[:, columns]
        )
        self._added: list[tuple[Tensor, Tensor]] = []
        if problem.lens_ids is not None:
            matrix, gradient = coupling_equations(problem.intrinsics, problem.lens_ids)
            num_poses = 6 * num_images
            self.add(pad(matrix, (num_poses, 0, num_poses, 0)), pad(gradient, (num_poses, 0)))

    @property
    def cost(self) -> float:
        """Robust cost at the linearization point, with residuals in standard deviations."""
        return self.problem.cost

    def evaluate(self, candidate: BundleProblem) -> float:
        """Return the robust cost of the variables in `candidate`, with residuals in standard deviations."""
        return candidate.cost

    def add(self, matrix: Tensor, gradient: Tensor) -> None:
        """Add the normal equations of another cost term, which must not depend on the points.

        Args:
            matrix: Matrix over the 6 variables of each of the N poses, followed by all 9 intrinsics of each
                of the K cameras. (6 N + 9 K, 6 N + 9 K).
            gradient: Gradient with respect to the same variables. (6 N + 9 K,).
        """
        kept = self.indices
        self._added.append((matrix[kept[:, None], kept], gradient[kept]))

    @property
    def indices(self) -> Tensor:
        """Positions of the variables among the 6 variables of each pose and all 9 intrinsics of each camera.

        (6 N + C K,).
        """
        size, (num_cameras, width) = 6 * len(self.poses), self.problem.intrinsics.shape
        columns = self.problem.columns
        first = width * torch.arange(num_cameras, device=columns.device)
        poses = torch.arange(size, device=columns.device)
        return torch.cat([poses, size + (first[:, None] + columns).flatten()])

    def reduce(self, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """Eliminate the points by the Schur complement.

        Args:
            damping: Levenberg-Marquardt damping: this multiple of the diagonal of the point blocks is added
                to the point blocks. The other blocks are not damped.

        Returns:
            Reduced matrix over the variables of the cameras (6 N + C K, 6 N + C K); reduced gradient
            (6 N + C K,); and inverses of the damped point blocks (P, 3, 3).
        """
        structure, image_ids, point_ids = self.structure, self.problem.image_ids, self.problem.point_ids
        num_images = len(self.poses)
        size, shape = 6 * num_images, self.gradient_intrinsics.shape
        num_intrinsics = shape.numel()
        diagonal = self.points.diagonal(dim1=1, dim2=2)
        inverse = torch.linalg.inv(self.points + torch.diag_embed(damping * diagonal + 1e-12))
        eliminated = self.poses_points @ inverse[point_ids]

        blocks = structure.multiply(eliminated, self.poses_points, num_images)
        coupling = blocks.permute(0, 2, 1, 3).reshape(size, size)
        # Each pair was counted in one order; the other order gives the transpose. Add the diagonal blocks.
        diagonal_blocks = self.poses - _sum_by(eliminated @ self.poses_points.mT, image_ids, num_images)
        matrix = torch.zeros(2 * (size + num_intrinsics,), dtype=coupling.dtype, device=coupling.device)
        matrix[:size, :size] = torch.block_diag(*diagonal_blocks) - coupling - coupling.T
        # Process some columns at a time to limit memory.
        blocks = self.intrinsics_points.split(max(1, MAX_BORDER_SIZE // (6 * len(image_ids))), dim=1)
        border = [-_sum_by(eliminated @ block[point_ids].mT, image_ids, num_images) for block in blocks]
        border = torch.cat(border, dim=2).unflatten(2, shape)
        images = torch.arange(num_images, device=border.device)
        border[images, :, self.problem.camera_ids] += self.poses_intrinsics
        matrix[:size, size:] = border.reshape(size, num_intrinsics)
        matrix[size:, :size] = matrix[:size, size:].T
        left, right = self.intrinsics_points @ inverse, self.intrinsics_points
        matrix[size:, size:] = torch.block_diag(*self.intrinsics) - torch.einsum("pik,pjk->ij", left, right)

        reached = inverse @ self.gradient_points
        gradient = torch.cat(
            [
                (
                    self.gradient_poses
                    - _sum_by(self.poses_points @ reached[point_ids], image_ids, num_images)
                ).flatten(),
                self.gradient_intrinsics.flatten() - (self.intrinsics_points @ reached).sum(0).squeeze(-1),
            ]
        )
        for added_matrix, added_gradient in self._added:
            matrix, gradient = matrix + added_matrix, gradient + added_gradient
        return matrix, gradient, inverse

    def solve(self, damping: float) -> BundleStep | None:
        """Solve for one Levenberg-Marquardt step.

        Args:
            damping: Levenberg-Marquardt damping: this multiple of the diagonal of the normal matrix is added
                to the matrix.

        Returns:
            Increments of poses (N, 6), points (P, 3) and intrinsics (K, 9), zero for fixed poses and
            intrinsics; None if the damped system is not positive definite.
        """
        problem = self.problem
        matrix, gradient, inverse = self.reduce(damping)
        blocks = self.poses, self.intrinsics
        diagonal = torch.cat([block.diagonal(dim1=1, dim2=2).flatten() for block in blocks])
        diagonal = sum((added.diagonal() for added, _ in self._added), diagonal)
        matrix = matrix + torch.diag(damping * diagonal + 1e-12)
        free_intrinsics = problem.free_intrinsics[:, problem.columns]
        free = torch.cat([problem.free_poses.repeat_interleave(6), free_intrinsics.flatten()])
        factor, info = torch.linalg.cholesky_ex(matrix[free][:, free])
        if info != 0:
            return None
        step = torch.zeros_like(gradient)
        step[free] = -torch.cholesky_solve(gradient[free, None], factor).squeeze(-1)
        size = 6 * len(self.poses)
        d_poses, d_intrinsics = step[:size].view(-1, 6), step[size:]
        moved = self.poses_points.mT @ d_poses[problem.image_ids, :, None]
        remaining = self.gradient_points + _sum_by(moved, problem.point_ids, len(problem.points))
        remaining = remaining + self.intrinsics_points.mT @ d_intrinsics[:, None]
        d_points = -(inverse @ remaining).squeeze(-1)
        all_intrinsics = torch.zeros_like(problem.intrinsics)
        all_intrinsics[:, problem.columns] = d_intrinsics.view_as(free_intrinsics)
        return d_poses, d_points, all_intrinsics


def _index_within(counts: Tensor) -> Tensor:
    """Count from zero within each of several consecutive runs.

    Args:
        counts: Length of each run. (n,).

    Returns:
        Position of each element within its run; for run lengths (2, 3), the result is (0, 1, 0, 1, 2).
        (sum of lengths,).
    """
    total = torch.arange(int(counts.sum()), device=counts.device)
    return total - (counts.cumsum(0) - counts).repeat_interleave(counts)


def _sum_by(values: Tensor, index: Tensor, length: int) -> Tensor:
    """Sum the rows that have the same index; `length` is the number of sums. (n, ...) -> (length, ...)."""
    flat = values.flatten(1)
    out = torch.zeros(length, flat.shape[1], dtype=values.dtype, device=values.device)
    return out.index_add_(0, index, flat).view(length, *values.shape[1:])
