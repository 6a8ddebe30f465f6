"""Joint adjustment of all cameras: photographs against renderings and tracks against points, in one system.

The camera blocks of the bundle adjustment's normal equations receive those of the photometric alignment,
after which both are solved, damped and accepted as one. The Gaussians stay; the track points move and are
eliminated. No camera is fixed: the Gaussians hold the world where it is, and where they say nothing the
damping does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nope_splat.photometric_alignment import (
    RenderedView,
    photometric_cost,
    photometric_equations,
    robust_noise,
)
from nope_splat.reconstruction.bundle import adjust
from nope_splat.reconstruction.bundle_problem import (
    BundleProblem,
    linearize,
    reprojection_residuals,
    retract,
    robust_cost,
)
from nope_splat.reconstruction.schur import NormalEquations, SchurStructure
from nope_splat.reconstruction.working import MIN_SIGMA

Look = Callable[[int, Tensor, Tensor], RenderedView]
"""Renders view i from `T_camera_world` (4, 4) with its intrinsics (5,), as of `BundleProblem`."""

FIRST_DAMPING = 1e-6
"""Small, or it would hide what only the photographs say, such as where the Gaussians are as a whole."""
ATTEMPTS = 6
"""Steps tried, each more damped than the last, before the adjustment ends."""
HALVINGS = (2, 1)
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
    """Share of the photographs in the information about the poses at the last step, 0 to 1."""

    @property
    def change_percent(self) -> float:
        """Change of the joint cost over all steps in percent of it, negative where it fell."""
        return 100 * (math.prod(after / before for before, after in self.costs) - 1)


def adjust_jointly(
    problem: BundleProblem, look: Look, max_iterations: int = 8, tolerance: float = 1e-4
) -> JointResult:
    """Minimise the reprojection cost of the tracks plus the photometric cost of the views.

    Each kind of residual counts in units of its own noise, estimated by the median absolute value; the
    pixels, which depend on each other, are discounted as `photometric_equations` tells. So nothing is
    weighted by hand: many good tracks outvote the renderings, and few or bad ones are outvoted.

    Args:
        problem: Cameras, track points and observations.
        look: Renders a view.
        max_iterations: Largest number of accepted steps.
        tolerance: Stop when a step at full resolution lowers the cost by less than this share.

    Returns:
        The adjusted problem, and how the cost fell.
    """
    structure = SchurStructure(problem)
    # At disturbed cameras the residuals are no measure of noise; what the tracks alone could reach is one.
    noise = _track_noise(adjust(problem, tolerance=1e-3).problem)
    problem = replace(problem, sigma=(noise * problem.sigma).clamp(min=MIN_SIGMA))
    damping, share, costs = FIRST_DAMPING, 0.0, []
    for iteration in range(max_iterations):
        halvings = HALVINGS[iteration] if iteration < len(HALVINGS) else 0
        photometric = _Photometric(look, problem, halvings)
        equations = NormalEquations(problem, linearize(problem), structure)
        share = photometric.add_to(equations)
        before = _track_cost(problem) + photometric.cost(problem)
        for _ in range(ATTEMPTS):
            step = equations.solve(damping)
            if step is not None:
                candidate = retract(problem, *step)
                after = _track_cost(candidate) + photometric.cost(candidate)
                if after < before:
                    break
            damping *= 10
        else:
            if halvings:
                continue
            break
        problem = candidate
        costs.append((before, after))
        damping = max(damping / 10, 1e-9)
        if not halvings and before - after < tolerance * before:
            break
    return JointResult(problem, tuple(costs), share)


class _Photometric:
    """The photometric part of one step, with the pixels, noise and weights of its start.

    One view is in memory at a time.
    """

    def __init__(self, look: Look, problem: BundleProblem, halvings: int) -> None:
        self.look, self.halvings = look, halvings
        self.used, self.noise, self.weights, equations = [], [], [], []
        for view in self._views(problem):
            noise = robust_noise(view)
            of_view, worth = photometric_equations(view, noise)
            equations.append(of_view)
            self.used.append(view.used)
            self.noise.append(noise)
            self.weights.append(worth)
        self.matrix, self.gradient = (torch.stack(part) for part in zip(*equations, strict=True))

    def _views(self, problem: BundleProblem) -> Iterator[RenderedView]:
        intrinsics = problem.intrinsics[problem.intrinsics_ids]
        for index, pose in enumerate(problem.T_camera_world):
            yield self.look(index, pose, intrinsics[index]).halved(self.halvings)

    def cost(self, problem: BundleProblem) -> float:
        """Weighted cost of all views at other cameras, over the same pixels."""
        state = zip(self._views(problem), self.used, self.noise, self.weights, strict=True)
        return sum(
            weight * photometric_cost(replace(view, used=used), noise) for view, used, noise, weight in state
        )

    def add_to(self, equations: NormalEquations) -> float:
        """Add to the tracks' equations; returns the photographs' share in the information about the poses."""
        weights = torch.tensor(self.weights).to(self.gradient)[:, None]
        matrix, gradient = weights[..., None] * self.matrix, weights * self.gradient
        poses = matrix[:, :6, :6]
        equations.cameras += poses
        equations.cameras_intrinsics[:, :, 0] += matrix[:, :6, 6]
        ids = equations.problem.intrinsics_ids
        equations.intrinsics[:, 0, 0].index_add_(0, ids, matrix[:, 6, 6])
        equations.gradient_cameras += gradient[:, :6, None]
        equations.gradient_intrinsics[:, 0].index_add_(0, ids, gradient[:, 6])
        # The trace does not depend on the units of rotation and translation.
        shares = torch.linalg.pinv(equations.cameras, hermitian=True) @ poses
        return float(shares.diagonal(dim1=1, dim2=2).mean())


def _track_cost(problem: BundleProblem) -> float:
    return robust_cost(problem, reprojection_residuals(problem)[0])


def _track_noise(problem: BundleProblem) -> float:
    """Noise of the observations as a multiple of their sigma, what the points absorb accounted for."""
    residuals, _ = reprojection_residuals(problem)
    unknowns = 6 * len(problem.T_camera_world) + 3 * len(problem.points) + int(problem.free_intrinsics.sum())
    freedom = max(2 * len(residuals) - unknowns, 1) / max(2 * len(residuals), 1)
    return 1.4826 * float(residuals[residuals.isfinite()].abs().median()) / freedom**0.5
