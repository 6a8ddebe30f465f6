"""Bundle adjustment: Levenberg-Marquardt over poses, points and one shared camera, points eliminated.

The method is Triggs et al., "Bundle Adjustment: A Modern Synthesis" (2000): robust reweighted normal
equations, whose block-diagonal point part is eliminated by the Schur complement, so that only the cameras
and the three shared intrinsics remain in a dense system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

MIN_DEPTH = 1e-6
"""Points nearer than this to the camera's plane, or behind it, cannot be projected."""
BEHIND_COST = 1e3
"""Robust cost, in square pixels, of an observation whose point cannot be projected."""
TILE = 16
"""Pairs of observations multiplied at once."""
MAX_LOG_FOCAL_STEP = 0.5
"""Largest change of the logarithm of the focal length in one step."""


@dataclass(frozen=True)
class BundleProblem:
    """Variables and observations of a bundle adjustment; all float64 or int64, on one device.

    Image coordinates are in pixels from the image centre, so that photographs of any size share the
    intrinsics `[log focal, principal point offset x, y]`.
    """

    T_camera_world: Tensor
    """World-to-camera transforms, OpenCV axes. (C, 4, 4)."""
    points: Tensor
    """World coordinates. (P, 3)."""
    intrinsics: Tensor
    """Natural logarithm of the focal length; principal point minus image centre. (3,)."""
    camera_ids: Tensor
    """Camera of each observation. (O,)."""
    point_ids: Tensor
    """Point of each observation. (O,)."""
    xy: Tensor
    """Observed image positions, pixels from the image centre. (O, 2)."""
    free_cameras: Tensor
    """Cameras that may move; at least one should not, to fix the world frame. (C,), bool."""
    free_intrinsics: Tensor
    """Intrinsics that may change. (3,), bool."""
    prior_mean: Tensor
    """Mean of the Gaussian prior on the intrinsics. (3,)."""
    prior_sigma: Tensor
    """Standard deviation of that prior, for residuals of one pixel. (3,)."""
    huber: float = 1.0
    """Residual length in pixels from which the cost grows linearly."""


@dataclass(frozen=True)
class Linearization:
    """Residuals and Jacobians of every observation."""

    residuals: Tensor
    """Projection minus observation, pixels; zero where the point cannot be projected. (O, 2)."""
    visible: Tensor
    """Whether the point is in front of the camera. (O,), bool."""
    by_camera: Tensor
    """Derivatives by the camera's rotation and translation increments (see `retract`). (O, 2, 6)."""
    by_point: Tensor
    """Derivatives by the point. (O, 2, 3)."""
    by_intrinsics: Tensor
    """Derivatives by the shared intrinsics. (O, 2, 3)."""


@dataclass(frozen=True)
class BundleResult:
    """Outcome of a bundle adjustment."""

    problem: BundleProblem
    """The problem with its variables adjusted."""
    initial_cost: float
    """Robust cost at the start, in square pixels."""
    cost: float
    """Robust cost at the end, in square pixels."""
    iterations: int
    """Accepted steps."""

    @property
    def noise(self) -> float:
        """Standard deviation of the residuals per axis in pixels, degrees of freedom accounted for."""
        problem = self.problem
        unknowns = 6 * len(problem.T_camera_world) + 3 * len(problem.points) + 3
        return (self.cost / max(2 * len(problem.xy) - unknowns, 1)) ** 0.5


def adjust(problem: BundleProblem, max_iterations: int = 25, tolerance: float = 1e-5) -> BundleResult:
    """Minimise the Huber cost of the reprojection errors plus the prior on the intrinsics.

    Args:
        problem: Start.
        max_iterations: Largest number of accepted steps.
        tolerance: Stop when a step lowers the cost by less than this share.

    Returns:
        The adjusted problem and its cost.
    """
    damping = 1e-4
    structure = SchurStructure(problem)
    residuals, _ = reprojection_residuals(problem)
    cost = initial_cost = robust_cost(problem, residuals)
    iterations = 0
    for _ in range(max_iterations):
        equations = NormalEquations(problem, linearize(problem), structure)
        for _ in range(8):
            step = equations.solve(damping)
            if step is not None:
                candidate = retract(problem, *step)
                residuals, _ = reprojection_residuals(candidate)
                new_cost = robust_cost(candidate, residuals)
                if new_cost < cost:
                    break
            damping *= 6
        else:
            break
        decrease = (cost - new_cost) / cost
        problem, cost = candidate, new_cost
        damping = max(damping / 5, 1e-9)
        iterations += 1
        if decrease < tolerance:
            break
    return BundleResult(problem, initial_cost, cost, iterations)


def reprojection_residuals(problem: BundleProblem) -> tuple[Tensor, Tensor]:
    """Projection minus observation.

    Args:
        problem: Variables and observations.

    Returns:
        Residuals in pixels, infinite where the point is behind its camera. (O, 2).
        Points in camera coordinates. (O, 3).
    """
    pose = problem.T_camera_world[problem.camera_ids]
    rotated = (pose[:, :3, :3] @ problem.points[problem.point_ids, :, None]).squeeze(-1)
    in_camera = rotated + pose[:, :3, 3]
    depth = in_camera[:, 2:]
    residuals = problem.intrinsics[0].exp() * in_camera[:, :2] / depth + problem.intrinsics[1:] - problem.xy
    return torch.where(depth > MIN_DEPTH, residuals, torch.inf), in_camera


def linearize(problem: BundleProblem) -> Linearization:
    """Residuals and their derivatives.

    With u = x/z and v = y/z of the point X_c = (x, y, z) in camera coordinates and focal length f:

        dr/dX_c  = f/z [[1, 0, -u], [0, 1, -v]]
        dr/domega = f [[-uv, 1 + u^2, -v], [-(1 + v^2), uv, u]]     (X_c' = exp(omega) X_c + nu)
        dr/dnu   = dr/dX_c,   dr/dX = dr/dX_c R,   dr/dlog f = f (u, v),   dr/doffset = I

    Args:
        problem: Variables and observations.

    Returns:
        Residuals and Jacobians; all zero for points behind their camera.
    """
    residuals, in_camera = reprojection_residuals(problem)
    visible = in_camera[:, 2] > MIN_DEPTH
    residuals = torch.where(visible[:, None], residuals, 0.0)
    focal = problem.intrinsics[0].exp()
    inverse_depth = torch.where(visible, 1 / in_camera[:, 2], 0.0)
    u, v = in_camera[:, 0] * inverse_depth, in_camera[:, 1] * inverse_depth
    zero, one = torch.zeros_like(u), visible.to(u.dtype)

    def stack(*entries: Tensor) -> Tensor:
        return torch.stack(entries, -1).view(len(u), 2, -1)

    by_position = focal * inverse_depth[:, None, None] * stack(one, zero, -u, zero, one, -v)
    by_rotation = focal * stack(-u * v, one + u * u, -v, -(one + v * v), u * v, u)
    by_point = by_position @ problem.T_camera_world[problem.camera_ids, :3, :3]
    by_intrinsics = stack(focal * u, one, zero, focal * v, zero, one)
    return Linearization(
        residuals, visible, torch.cat([by_rotation, by_position], -1), by_point, by_intrinsics
    )


def retract(
    problem: BundleProblem, d_cameras: Tensor, d_points: Tensor, d_intrinsics: Tensor
) -> BundleProblem:
    """Apply an increment to the variables.

    Poses take theirs from the left: R' = exp([omega]x) R, t' = exp([omega]x) t + nu.

    Args:
        problem: Current variables.
        d_cameras: Rotation vectors omega (radians) and translations nu. (C, 6).
        d_points: Added to the points. (P, 3).
        d_intrinsics: Added to the intrinsics, the focal part limited to a factor of e^0.5. (3,).

    Returns:
        The problem with new variables.
    """
    x, y, z = d_cameras[:, :3].unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    increment = torch.eye(4, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    increment[:, :3, :3] = torch.linalg.matrix_exp(cross)
    increment[:, :3, 3] = d_cameras[:, 3:]
    limit = torch.tensor([MAX_LOG_FOCAL_STEP, torch.inf, torch.inf], dtype=x.dtype, device=x.device)
    return replace(
        problem,
        T_camera_world=increment @ problem.T_camera_world,
        points=problem.points + d_points,
        intrinsics=problem.intrinsics + d_intrinsics.clamp(-limit, limit),
    )


def robust_cost(problem: BundleProblem, residuals: Tensor) -> float:
    """Huber cost of the residuals, r^2 up to delta and 2 delta r - delta^2 beyond, plus the prior.

    Args:
        problem: Gives the Huber width and the prior.
        residuals: From `reprojection_residuals`. (O, 2).

    Returns:
        Cost in square pixels.
    """
    length = residuals.norm(dim=1)
    delta = problem.huber
    cost = torch.where(length <= delta, length**2, 2 * delta * length - delta**2)
    cost = cost.nan_to_num(posinf=BEHIND_COST)
    prior = ((problem.intrinsics - problem.prior_mean) / problem.prior_sigma).square().sum()
    return float(cost.sum() + prior)


class SchurStructure:
    """Which pairs of observations show the same point: the sparsity of the reduced camera system.

    Pairs are sorted by their two cameras and cut into tiles of `TILE` pairs, filled up with a row of zeros
    behind the last observation, so that each tile is one product of thin matrices.

    Args:
        problem: Gives the ids of cameras and points; fixed cameras need no pairs.
    """

    def __init__(self, problem: BundleProblem) -> None:
        num_cameras, num_observations = len(problem.T_camera_world), len(problem.xy)
        free = torch.nonzero(problem.free_cameras[problem.camera_ids]).squeeze(-1)
        order = free[torch.argsort(problem.point_ids[free], stable=True)]
        counts = torch.bincount(problem.point_ids[order], minlength=len(problem.points))
        # The k-th observation of a point pairs with all later ones.
        position = torch.arange(len(order), device=order.device)
        partners = counts.cumsum(0)[problem.point_ids[order]] - position - 1
        first = position.repeat_interleave(partners)
        second = first + 1 + _index_within(partners)
        first, second = order[first], order[second]
        block = problem.camera_ids[first] * num_cameras + problem.camera_ids[second]

        by_block = torch.argsort(block, stable=True)
        counts = torch.bincount(block, minlength=num_cameras**2)
        tiles = (counts + TILE - 1) // TILE
        slot = ((tiles.cumsum(0) - tiles) * TILE).repeat_interleave(counts) + _index_within(counts)
        self.first = torch.full((int(tiles.sum()) * TILE,), num_observations, device=order.device)
        self.second = self.first.clone()
        self.first[slot] = first[by_block]
        self.second[slot] = second[by_block]
        self.tile_blocks = torch.arange(num_cameras**2, device=order.device).repeat_interleave(tiles)

    def multiply(self, left: Tensor, right: Tensor, num_cameras: int) -> Tensor:
        """Sum left_i right_j^T over the pairs of observations (i, j), by their cameras.

        Args:
            left: A matrix for each observation. (O, 6, 3).
            right: A matrix for each observation. (O, 6, 3).
            num_cameras: Number of cameras C.

        Returns:
            Sums. (C, C, 6, 6).
        """

        def tiled(values: Tensor, index: Tensor) -> Tensor:
            rows = torch.nn.functional.pad(values.mT.reshape(-1, 18), (0, 0, 0, 1))
            return rows.index_select(0, index).view(-1, 3 * TILE, 6)

        products = tiled(left, self.first).mT @ tiled(right, self.second)
        return _sum_by(products, self.tile_blocks, num_cameras**2).view(num_cameras, num_cameras, 6, 6)


class NormalEquations:
    """Robustly weighted normal equations at one linearisation, to be solved for several dampings.

    Args:
        problem: Variables and observations.
        at: The linearisation there.
        structure: The pairs of observations of each point.
    """

    def __init__(self, problem: BundleProblem, at: Linearization, structure: SchurStructure) -> None:
        self.problem, self.structure = problem, structure
        num_cameras, num_points = len(problem.T_camera_world), len(problem.points)
        length = at.residuals.norm(dim=1).clamp(min=1e-12)
        weight = (problem.huber / length).clamp(max=1.0).sqrt()  # of iteratively reweighted least squares
        residuals = weight[:, None, None] * at.residuals[:, :, None]
        a, b, g = (weight[:, None, None] * j for j in (at.by_camera, at.by_point, at.by_intrinsics))
        at_, bt, gt = a.mT, b.mT, g.mT

        def by_camera(values: Tensor) -> Tensor:
            return _sum_by(values, problem.camera_ids, num_cameras)

        def by_point(values: Tensor) -> Tensor:
            return _sum_by(values, problem.point_ids, num_points)

        prior = problem.prior_sigma**-2
        self.cameras = by_camera(at_ @ a)
        self.cameras_intrinsics = by_camera(at_ @ g)
        self.intrinsics = (gt @ g).sum(0) + prior.diag()
        self.points = by_point(bt @ b)
        self.cameras_points = at_ @ b
        self.intrinsics_points = by_point(gt @ b)
        self.gradient_cameras = by_camera(at_ @ residuals)
        self.gradient_points = by_point(bt @ residuals)
        self.gradient_intrinsics = (gt @ residuals).sum(0).squeeze(-1) + prior * (
            problem.intrinsics - problem.prior_mean
        )

    def reduce(self, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """Eliminate the points.

        Args:
            damping: Marquardt's factor on the diagonal.

        Returns:
            Reduced matrix over all cameras, then the intrinsics. (6 C + 3, 6 C + 3).
            Reduced gradient. (6 C + 3,).
            Inverses of the damped point blocks. (P, 3, 3).
        """
        structure, camera_ids = self.structure, self.problem.camera_ids
        num_cameras = len(self.cameras)
        size = 6 * num_cameras
        diagonal = self.points.diagonal(dim1=1, dim2=2)
        inverse = torch.linalg.inv(self.points + torch.diag_embed(damping * diagonal + 1e-12))
        eliminated = self.cameras_points @ inverse[self.problem.point_ids]

        blocks = structure.multiply(eliminated, self.cameras_points, num_cameras)
        coupling = blocks.permute(0, 2, 1, 3).reshape(size, size)
        # Each pair was counted once; its mirror image is the transpose. No observation pairs with itself.
        own = _sum_by(eliminated @ self.cameras_points.mT, camera_ids, num_cameras)
        matrix = torch.zeros(size + 3, size + 3, dtype=coupling.dtype, device=coupling.device)
        matrix[:size, :size] = torch.block_diag(*(self.cameras - own)) - coupling - coupling.T
        border = self.cameras_intrinsics - _sum_by(
            eliminated @ self.intrinsics_points[self.problem.point_ids].mT, camera_ids, num_cameras
        )
        matrix[:size, size:] = border.reshape(size, 3)
        matrix[size:, :size] = matrix[:size, size:].T
        matrix[size:, size:] = self.intrinsics - (
            self.intrinsics_points @ inverse @ self.intrinsics_points.mT
        ).sum(0)

        reached = inverse @ self.gradient_points
        gradient = torch.cat(
            [
                (
                    self.gradient_cameras
                    - _sum_by(self.cameras_points @ reached[self.problem.point_ids], camera_ids, num_cameras)
                ).flatten(),
                self.gradient_intrinsics - (self.intrinsics_points @ reached).sum(0).squeeze(-1),
            ]
        )
        return matrix, gradient, inverse

    def solve(self, damping: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """One Levenberg-Marquardt step.

        Args:
            damping: Marquardt's factor on the diagonal.

        Returns:
            Increments of cameras (C, 6), points (P, 3) and intrinsics (3,); None where the damped system
            is not positive definite.
        """
        problem = self.problem
        matrix, gradient, inverse = self.reduce(damping)
        diagonal = torch.cat([self.cameras.diagonal(dim1=1, dim2=2).flatten(), self.intrinsics.diagonal()])
        matrix = matrix + torch.diag(damping * diagonal + 1e-12)
        free = torch.cat([problem.free_cameras.repeat_interleave(6), problem.free_intrinsics])
        factor, info = torch.linalg.cholesky_ex(matrix[free][:, free])
        if info != 0:
            return None
        step = torch.zeros_like(gradient)
        step[free] = -torch.cholesky_solve(gradient[free, None], factor).squeeze(-1)
        d_cameras, d_intrinsics = step[:-3].view(-1, 6), step[-3:]
        moved = self.cameras_points.mT @ d_cameras[problem.camera_ids, :, None]
        remaining = self.gradient_points + _sum_by(moved, problem.point_ids, len(problem.points))
        remaining = remaining + self.intrinsics_points.mT @ d_intrinsics[:, None]
        d_points = -(inverse @ remaining).squeeze(-1)
        return d_cameras, d_points, d_intrinsics


def intrinsics_covariance(problem: BundleProblem) -> Tensor | None:
    """Covariance of the shared intrinsics with everything else free, for residuals of one pixel.

    Args:
        problem: An adjusted problem.

    Returns:
        Covariance of log focal and offset, the prior included; None where the system is singular. (3, 3).
    """
    matrix, _, _ = NormalEquations(problem, linearize(problem), SchurStructure(problem)).reduce(1e-9)
    # A free overall scale leaves the cameras singular; a tiny damping removes it without touching the rest.
    matrix = matrix + torch.diag(1e-9 * matrix.diagonal().abs())
    free = torch.cat([problem.free_cameras.repeat_interleave(6), torch.ones_like(problem.free_intrinsics)])
    factor, info = torch.linalg.cholesky_ex(matrix[free][:, free])
    return None if info != 0 else torch.cholesky_inverse(factor)[-3:, -3:]


def _index_within(counts: Tensor) -> Tensor:
    """Position of each element in its run, for runs of the given lengths. (n,) -> (sum,)."""
    total = torch.arange(int(counts.sum()), device=counts.device)
    return total - (counts.cumsum(0) - counts).repeat_interleave(counts)


def _sum_by(values: Tensor, index: Tensor, length: int) -> Tensor:
    """Sum rows that share an index. (n, ...) -> (length, ...)."""
    flat = values.flatten(1)
    out = torch.zeros(length, flat.shape[1], dtype=values.dtype, device=values.device)
    return out.index_add_(0, index, flat).view(length, *values.shape[1:])
