"""Joint adjustment of all cameras: images against renderings and tracks against points, in one system.

To the bundle adjustment's reduced equations of the cameras come those of the photometric alignment, after
which both are solved, damped and accepted as one. What the cameras are seen by may move in both, and is
eliminated: the track points, and patches of the rendered surface (see `surface_patches`). The Gaussians stay
for now; they follow in the training that goes on. No camera is fixed: the prior of the patches holds the
world where it is, and where they say nothing the damping does.
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
from nope_splat.sfm.bundle_adjustment.solver import adjust
from nope_splat.sfm.state import MIN_SIGMA

Look = Callable[[int, Tensor, Tensor], RenderedView]
"""Renders view i from `T_camera_world` (4, 4) with its intrinsics (5,), as of `BundleProblem`."""

SOLVER = LevenbergMarquardtConfig(initial_damping=1e-6, max_trials=6)
"""Little damping at first, or it would hide what only the images say, such as where the Gaussians are as a
whole."""
PYRAMID_LEVELS = (2, 1)
"""How often the images of the first steps are halved; those of all others are not."""


@dataclass(frozen=True)
class JointResult:
    """Outcome of a joint adjustment."""

    problem: BundleProblem
    """The problem with its variables adjusted."""
    costs: tuple[tuple[float, float], ...]
    """Joint robust cost before and after each accepted step, in variances. The noise is estimated and the
    images are scaled anew for each, so only the two of one step compare."""
    photometric_share: float
    """Share of the images in the information about the poses at the last step, 0 to 1."""

    @property
    def change_percent(self) -> float:
        """Change of the joint cost over all steps in percent of it, negative where it fell."""
        return 100 * (math.prod(after / before for before, after in self.costs) - 1)


def adjust_jointly(
    problem: BundleProblem,
    look: Look,
    max_iterations: int = 8,
    tolerance: float = 1e-3,
    halvings: tuple[int, ...] = PYRAMID_LEVELS,
) -> JointResult:
    """Minimize the reprojection cost of the tracks plus the photometric cost of the views.

    Each kind of residual counts in units of its own noise, estimated by the median absolute value; the
    pixels, which depend on each other, are discounted as `information_weight` tells. So nothing is
    weighted by hand: many good tracks outvote the renderings, and few or bad ones are outvoted.

    Args:
        problem: Cameras, track points and observations.
        look: Renders a view.
        max_iterations: Largest number of accepted steps.
        tolerance: Stop when a step at full resolution lowers the cost by less than this share.
        halvings: How often the images of the first steps are halved; those of all others are not.

    Returns:
        The adjusted problem, and how the cost fell.
    """
    structure = SchurStructure(problem)
    # At disturbed cameras the residuals are no measure of noise; what the tracks alone could reach is one.
    noise = _track_noise(adjust(problem, tolerance=1e-3).problem)
    problem = replace(problem, sigma=(noise * problem.sigma).clamp(min=MIN_SIGMA))
    costs, damping, last = [], SOLVER.initial_damping, None
    # One step at each coarse resolution, whether it lowers the cost or not; all others at the full one.
    coarse = halvings[:max_iterations]
    for times, iterations in [*((level, 1) for level in coarse), (0, max_iterations - len(coarse))]:
        adjustment = _JointAdjustment(look, structure, times)
        config = replace(SOLVER, initial_damping=damping, max_iterations=iterations, tolerance=tolerance)
        result = levenberg_marquardt(adjustment, problem, config)
        problem, damping = result.state, result.damping
        costs += result.costs
        last = adjustment.last or last
    return JointResult(problem, tuple(costs), 0.0 if last is None else _share(last.matrix, last.tracks))


class _JointAdjustment:
    """Joint adjustment at one resolution as a problem of `levenberg_marquardt`.

    Args:
        look: Renders a view.
        structure: The pairs of observations of each point.
        halvings: How often the images are halved.
    """

    def __init__(self, look: Look, structure: SchurStructure, halvings: int) -> None:
        self._look, self._structure, self._halvings = look, structure, halvings
        self.last: _JointLinearization | None = None

    def linearize(self, state: BundleProblem) -> _JointLinearization:
        photometric = PhotometricSystem(self._look, self._halvings, SurfacePatches(state.points))
        tracks = NormalEquations(state, linearize(state), self._structure)
        cost, matrix, gradient = photometric.equations(state)
        tracks.add(matrix, gradient)
        self.last = _JointLinearization(tracks, photometric, matrix, state.cost + cost)
        return self.last

    def retract(self, state: BundleProblem, step: BundleStep) -> BundleProblem:
        return retract(state, *step)


class _JointLinearization(NamedTuple):
    tracks: NormalEquations
    """Those of the tracks, with the photometric ones added."""
    photometric: PhotometricSystem
    """Evaluates the photometric cost."""
    matrix: Tensor
    """Photometric matrix over all poses, then the K sets of 5 intrinsics. (6 N + 5 K, 6 N + 5 K)."""
    cost: float
    """Joint robust cost, in variances."""

    def solve(self, damping: float) -> BundleStep | None:
        return self.tracks.solve(damping)

    def evaluate(self, candidate: BundleProblem) -> float:
        return candidate.cost + self.photometric.equations(candidate)[0]


class _ViewWeights(NamedTuple):
    """What the start of a step decides for all of it."""

    used: Tensor
    """Pixels of the view that count. (H, W), bool."""
    noise: float
    """Standard deviation of their residuals."""
    weight: float
    """What they are worth."""
    patch_ids: Tensor
    """Patches that they show. (N,)."""


class PhotometricSystem:
    """The photometric part of one step; the pixels of one view are in memory at a time.

    Args:
        look: Renders a view.
        halvings: How often the images are halved.
        patches: Patches of the surface.
    """

    def __init__(self, look: Look, halvings: int, patches: SurfacePatches) -> None:
        self._look, self._halvings, self._patches = look, halvings, patches
        self._first: list[_ViewWeights] = []

    def equations(self, problem: BundleProblem) -> tuple[float, Tensor, Tensor]:
        """The weighted cost of all views, and its equations, patches eliminated.

        Args:
            problem: Cameras: at first those that the step starts from, then candidates.

        Returns:
            The cost that the best displacements of the patches would leave.
            Matrix over all poses, then the K sets of 5 intrinsics. (6 N + 5 K, 6 N + 5 K).
            Gradient. (6 N + 5 K,).
        """
        num_images, (num_cameras, width) = len(problem.T_camera_world), problem.intrinsics.shape
        size, num_patches = 6 * num_images + width * num_cameras, len(self._patches)
        zeros = problem.points.new_zeros
        cost, matrix, gradient = 0.0, zeros(size, size), zeros(size)
        coupling, own, slope = zeros(num_patches, size, 3), zeros(num_patches, 3, 3), zeros(num_patches, 3)
        for index, pose in enumerate(problem.T_camera_world):
            camera = int(problem.camera_ids[index])
            intrinsics = problem.intrinsics[camera]
            view = self._look(index, pose, intrinsics).halved(self._halvings)
            if index == len(self._first):
                noise = robust_noise(view)
                pixels = _in_pixels(pixel_equations(view, noise), intrinsics)
                patch_ids = self._patches.seen_in(view, pose)
                weight = information_weight(pixels, view.used)
                self._first.append(_ViewWeights(view.used, noise, weight, patch_ids))
            else:
                used, noise, weight, patch_ids = self._first[index]
                view = replace(view, used=used)
                pixels = _in_pixels(pixel_equations(view, noise), intrinsics)
            of_view, of_patches = pixels.sum(), self._patches.equations(pixels, patch_ids, pose)
            first, count = 6 * num_images + width * camera, pixels.jacobian.shape[-1] - 6
            rows = [*range(6 * index, 6 * index + 6), *range(first, first + count)]
            rows = torch.tensor(rows, device=matrix.device)
            cost += weight * photometric_cost(view, noise)
            matrix[rows[:, None], rows] += weight * of_view.matrix
            gradient[rows] += weight * of_view.gradient
            coupling[:, rows] += weight * of_patches.coupling
            own += weight * of_patches.matrix + of_patches.prior
            slope += weight * of_patches.gradient
        seen = own.diagonal(dim1=1, dim2=2).sum(-1) > 0
        coupling, slope = coupling[seen], slope[seen, :, None]
        factor = torch.linalg.cholesky(own[seen])
        moves = torch.cholesky_solve(slope, factor)
        matrix -= torch.einsum("pik,pjk->ij", coupling, torch.cholesky_solve(coupling.mT, factor).mT)
        gradient -= (coupling @ moves).sum(0).squeeze(-1)
        return cost - float((slope * moves).sum()), matrix, gradient


def _in_pixels(pixels: PixelEquations, intrinsics: Tensor) -> PixelEquations:
    """Equations with the principal point, if they have it, in pixels instead of focal lengths."""
    if pixels.jacobian.shape[-1] == 7:
        return pixels
    units = pixels.jacobian.new_ones(11)
    units[7:9] = (-intrinsics[0]).exp()
    return pixels._replace(jacobian=units * pixels.jacobian)


def _share(photometric: Tensor, joint: NormalEquations) -> float:
    """Share of the images in the information about each pose, the others held; mean over its motions.

    The trace that this takes does not depend on the units of rotation and translation.
    """
    num_images = len(joint.poses)

    def of_poses(matrix: Tensor) -> Tensor:
        size = 6 * num_images
        blocks = matrix[:size, :size].reshape(num_images, 6, num_images, 6)
        return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)

    every = of_poses(joint.reduce(0.0)[0])
    shares = torch.linalg.pinv(every, hermitian=True) @ of_poses(photometric)
    return float(shares.diagonal(dim1=1, dim2=2).mean())


def _track_noise(problem: BundleProblem) -> float:
    """Noise of the observations as a multiple of their sigma, what the points absorb accounted for."""
    residuals, _ = reprojection_residuals(problem)
    unknowns = 6 * len(problem.T_camera_world) + 3 * len(problem.points) + int(problem.free_intrinsics.sum())
    freedom = max(2 * len(residuals) - unknowns, 1) / max(2 * len(residuals), 1)
    return robust_sigma(residuals[residuals.isfinite()].abs()) / freedom**0.5
