"""Joint refinement of all cameras by photometric and reprojection errors.

The photometric normal equations are added to the reduced camera system of bundle adjustment, and
Levenberg-Marquardt steps are computed from the sum. Structure is marginalized: track points in the
reprojection term, surface patches in the photometric term. The Gaussians stay unchanged during the refinement
and adapt to the new cameras in further training. No camera is fixed. The world frame is fixed by the prior on
the patches or, without patches, by the damping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.geometry.levenberg_marquardt import LevenbergMarquardtConfig, levenberg_marquardt
from nope_splat.geometry.robust import robust_sigma
from nope_splat.refinement.photometric import (
    PixelEquations,
    RenderedView,
    information_weight,
    photometric_cost,
    pixel_equations,
    robust_noise,
)
from nope_splat.refinement.surface_patches import SurfacePatches
from nope_splat.sfm.bundle_adjustment.problem import (
    BundleProblem,
    BundleStep,
    linearize,
    reprojection_residuals,
    retract,
)
from nope_splat.sfm.bundle_adjustment.schur import NormalEquations, SchurStructure
from nope_splat.sfm.bundle_adjustment.solver import bundle_adjust
from nope_splat.sfm.state import MIN_SIGMA

RenderView = Callable[[int, Tensor, Tensor], RenderedView]
"""Function that renders a view, given the index of the view, its `T_camera_world` (4, 4), and the intrinsics
(9,) of its camera as in `BundleProblem`."""

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-6, max_trials=6)
"""Levenberg-Marquardt options. The initial damping is small because more damping would suppress steps in
directions about which the images give little information, such as a common motion of all cameras relative to
the Gaussians."""


@dataclass(frozen=True)
class JointResult:
    """Result of a joint refinement of all cameras."""

    problem: BundleProblem
    """The bundle adjustment problem with refined poses, intrinsics and track points."""
    costs: tuple[tuple[float, float], ...]
    """Joint robust cost (before, after) of each accepted step, with residuals divided by their standard
    deviations. Only the two costs of one step are comparable, because the estimated noise and the image
    resolution change from step to step."""
    photometric_share: float
    """Fraction of the Fisher information about the poses that comes from the photometric term at the last
    step, 0 to 1."""

    @property
    def change_percent(self) -> float:
        """Relative change of the joint cost in percent, negative if the cost decreased.

        The change over all steps is the product of the ratios after / before of the steps, minus one.
        """
        return 100 * (math.prod(after / before for before, after in self.costs) - 1)


def adjust_jointly(
    problem: BundleProblem,
    render_view: RenderView,
    max_iterations: int = 8,
    tolerance: float = 1e-3,
    pyramid_levels: tuple[int, ...] = (2, 1),
) -> JointResult:
    """Refine all cameras by minimizing the sum of reprojection cost and photometric cost.

    Each kind of residual is divided by its noise, estimated from the median absolute residual, and the
    photometric cost is weighted by `information_weight` because pixels are correlated. The relative weight of
    the two costs therefore follows from the number and accuracy of observations and pixels, and needs no
    option.

    Args:
        problem: Cameras, track points and observations.
        render_view: Function that renders a view at a given pose and intrinsics.
        max_iterations: Maximum number of accepted steps.
        tolerance: The refinement stops if a step at full resolution lowers the cost by less than this
            fraction of the cost.
        pyramid_levels: Number of times that the image resolution is halved in the first step, in the second
            step, and so on. Steps after these use full resolution.

    Returns:
        The refined problem, the costs of all accepted steps, and the photometric share of the information.
    """
    structure = SchurStructure(problem)
    # Residuals at the initial cameras overestimate the noise, so estimate the noise after bundle adjustment.
    noise = _track_noise(bundle_adjust(problem, tolerance=1e-3).problem)
    problem = replace(problem, sigma=(noise * problem.sigma).clamp(min=MIN_SIGMA))
    costs, damping, last = [], SOLVER.initial_damping, None
    # Take at most one step at each coarse resolution, and all other steps at full resolution.
    coarse = pyramid_levels[:max_iterations]
    for level, iterations in [*((level, 1) for level in coarse), (0, max_iterations - len(coarse))]:
        adjustment = _JointAdjustment(render_view, structure, level)
        config = replace(SOLVER, initial_damping=damping, max_iterations=iterations, tolerance=tolerance)
        result = levenberg_marquardt(adjustment, problem, config)
        problem, damping = result.state, result.damping
        costs += result.costs
        last = adjustment.last or last
    return JointResult(
        problem, tuple(costs), 0.0 if last is None else _photometric_share(last.matrix, last.tracks)
    )


class _JointAdjustment:
    """Joint refinement at one image resolution, as a problem of `levenberg_marquardt`.

    Args:
        render_view: Function that renders a view at a given pose and intrinsics.
        structure: Pairs of observations of the same track point, for the Schur complement.
        pyramid_level: Number of times that the resolution of the images is halved.
    """

    def __init__(self, render_view: RenderView, structure: SchurStructure, pyramid_level: int) -> None:
        self._render_view, self._structure, self._pyramid_level = render_view, structure, pyramid_level
        self.last: _JointLinearization | None = None

    def linearize(self, state: BundleProblem) -> _JointLinearization:
        photometric = PhotometricSystem(self._render_view, self._pyramid_level, SurfacePatches(state.points))
        tracks = NormalEquations(state, linearize(state), self._structure)
        cost, matrix, gradient = photometric.equations(state)
        tracks.add(matrix, gradient)
        self.last = _JointLinearization(tracks, photometric, matrix, state.cost + cost)
        return self.last

    def retract(self, state: BundleProblem, step: BundleStep) -> BundleProblem:
        return retract(state, *step)


class _JointLinearization(NamedTuple):
    tracks: NormalEquations
    """Sum of the normal equations of the tracks and the photometric normal equations."""
    photometric: PhotometricSystem
    """Photometric cost, for evaluating candidate cameras."""
    matrix: Tensor
    """Matrix of the photometric normal equations: 6 variables per pose for N poses, then 9 intrinsics per
    camera for K cameras. (6 N + 9 K, 6 N + 9 K)."""
    cost: float
    """Joint robust cost at the current cameras, with residuals divided by their standard deviations."""

    def solve(self, damping: float) -> BundleStep | None:
        return self.tracks.solve(damping)

    def evaluate(self, candidate: BundleProblem) -> float:
        return candidate.cost + self.photometric.equations(candidate)[0]


class _ViewWeights(NamedTuple):
    """Used pixels, noise and weight of a view, which stay fixed during one step of the refinement."""

    used: Tensor
    """True for the pixels of the view that have residuals. (H, W), bool."""
    noise: float
    """Standard deviation of the photometric residuals, in units of color (0 to 1)."""
    weight: float
    """Factor on the view's photometric cost, from `information_weight`."""
    patch_ids: Tensor
    """Index of the surface patch of each used pixel. (N,)."""


class PhotometricSystem:
    """Photometric cost of all views, and the normal equations of this cost, for one step of the refinement.

    Views are rendered one after the other, so that only one view is in memory at a time.

    Args:
        render_view: Function that renders a view at a given pose and intrinsics.
        pyramid_level: Number of times that the resolution of the images is halved.
        patches: Surface patches. Their displacements are eliminated from the normal equations.
    """

    def __init__(self, render_view: RenderView, pyramid_level: int, patches: SurfacePatches) -> None:
        self._render_view, self._pyramid_level, self._patches = render_view, pyramid_level, patches
        self._view_weights: list[_ViewWeights] = []

    def equations(self, problem: BundleProblem) -> tuple[float, Tensor, Tensor]:
        """Compute the photometric cost and its normal equations for the variables of the cameras.

        Other variables of the cost are the displacements of the surface patches, one 3D vector in world units
        each. They are eliminated from the normal equations (see `surface_patches`).

        Args:
            problem: Current cameras of all views. The first call also selects the pixels to use, and
                estimates the noise and weight of each view; later calls reuse them.

        Returns:
            Cost at the optimal displacements of the patches; matrix of the normal equations (6 N + 9 K, 6 N +
            9 K) and gradient (6 N + 9 K,), for N poses (6 variables each), then K cameras (9 intrinsics each,
            of which k3, k4, p1 and p2 are constant).
        """
        num_images, (num_cameras, width) = len(problem.T_camera_world), problem.intrinsics.shape
        size, num_patches = 6 * num_images + width * num_cameras, len(self._patches)
        zeros = problem.points.new_zeros
        cost, matrix, gradient = 0.0, zeros(size, size), zeros(size)
        coupling, blocks = zeros(num_patches, size, 3), zeros(num_patches, 3, 3)
        patch_gradient = zeros(num_patches, 3)
        poses_cameras = zip(problem.T_camera_world, problem.camera_ids.tolist(), strict=True)
        for index, (pose, camera) in enumerate(poses_cameras):
            intrinsics = problem.intrinsics[camera]
            view = self._render_view(index, pose, intrinsics).downsampled(self._pyramid_level)
            if index == len(self._view_weights):
                noise = robust_noise(view)
                pixels = _in_pixels(pixel_equations(view, noise), intrinsics)
                patch_ids = self._patches.patches_of_pixels(view, pose)
                weight = information_weight(pixels, view.used)
                self._view_weights.append(_ViewWeights(view.used, noise, weight, patch_ids))
            else:
                used, noise, weight, patch_ids = self._view_weights[index]
                view = replace(view, used=used)
                pixels = _in_pixels(pixel_equations(view, noise), intrinsics)
            view_equations = pixels.sum()
            patch_equations = self._patches.equations(pixels, patch_ids, pose, view.is_fisheye)
            first, count = 6 * num_images + width * camera, pixels.jacobian.shape[-1] - 6
            rows = [*range(6 * index, 6 * index + 6), *range(first, first + count)]
            rows = torch.tensor(rows, device=matrix.device)
            cost += weight * photometric_cost(view, noise)
            matrix[rows[:, None], rows] += weight * view_equations.matrix
            gradient[rows] += weight * view_equations.gradient
            coupling[:, rows] += weight * patch_equations.coupling
            blocks += weight * patch_equations.matrix + patch_equations.prior
            patch_gradient += weight * patch_equations.gradient
        visible = blocks.diagonal(dim1=1, dim2=2).sum(-1) > 0
        coupling, patch_gradient = coupling[visible], patch_gradient[visible, :, None]
        factor = torch.linalg.cholesky(blocks[visible])
        displacements = torch.cholesky_solve(patch_gradient, factor)
        matrix -= torch.einsum("pik,pjk->ij", coupling, torch.cholesky_solve(coupling.mT, factor).mT)
        gradient -= (coupling @ displacements).sum(0).squeeze(-1)
        return cost - float((patch_gradient * displacements).sum()), matrix, gradient


def _in_pixels(pixels: PixelEquations, intrinsics: Tensor) -> PixelEquations:
    """Express the derivatives with respect to the principal point per pixel instead of per focal length.

    `motion_on_plane` differentiates with respect to the principal point in units of focal length, whereas in
    a `BundleProblem` the principal point is in pixels. The derivatives are divided by the focal length in
    pixels.

    Args:
        pixels: Equations of a view's pixels. If they have 7 variables, the principal point is not refined,
            and the equations are returned unchanged.
        intrinsics: Intrinsics of the view's camera; the first entry is the logarithm of the focal length in
            pixels. (9,).
    """
    if pixels.jacobian.shape[-1] == 7:
        return pixels
    units = pixels.jacobian.new_ones(11)
    units[7:9] = (-intrinsics[0]).exp()
    return pixels._replace(jacobian=units * pixels.jacobian)


def _photometric_share(photometric: Tensor, joint: NormalEquations) -> float:
    """Compute the photometric fraction of the Fisher information about a pose, averaged over all poses.

    For a pose, let P and J be the 6 x 6 diagonal blocks of the photometric and of the joint matrix. The
    fraction is trace(J^-1 P) / 6, which does not depend on the units of rotation and translation.

    Args:
        photometric: Matrix of the photometric normal equations. (6 N + 9 K, 6 N + 9 K).
        joint: Sum of the normal equations of the tracks and the photometric normal equations.

    Returns:
        Fraction from 0 to 1.
    """
    num_images = len(joint.poses)

    def pose_blocks(matrix: Tensor) -> Tensor:
        size = 6 * num_images
        blocks = matrix[:size, :size].reshape(num_images, 6, num_images, 6)
        return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)

    joint_blocks = pose_blocks(joint.reduce(0.0)[0])
    shares = torch.linalg.pinv(joint_blocks, hermitian=True) @ pose_blocks(photometric)
    return float(shares.diagonal(dim1=1, dim2=2).mean())


def _track_noise(problem: BundleProblem) -> float:
    """Estimate the noise of the observations, as a multiple of the standard deviations `problem.sigma`.

    The estimate is corrected for the degrees of freedom of the fitted cameras and points.
    """
    residuals, _ = reprojection_residuals(problem)
    unknowns = 6 * len(problem.T_camera_world) + 3 * len(problem.points) + int(problem.free_intrinsics.sum())
    freedom = max(2 * len(residuals) - unknowns, 1) / max(2 * len(residuals), 1)
    return robust_sigma(residuals[residuals.isfinite()].abs()) / freedom**0.5
