"""Initialization by two views, from focal lengths that the pairs suggest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt

from nope_splat.sfm.initialization.focal import focal_starts, joint_starts, prior_focal
from nope_splat.sfm.initialization.start import Start, start_from_focals
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TwoViewInitialization:
    """Start from a pair of photos with many matches and enough parallax."""

    restart_factor: Annotated[float, Gt(1)] = 1.1
    """Smallest change of the focal length during registration after which registration starts again."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield tracks without poses at each focal length that is worth trying.

        Args:
            problem: A connected component.
        """
        with problem.clock.stage("focal length"):
            candidates = _candidate_focals(problem)
        if len(candidates) > 1:
            pixel_size = problem.camera_groups.camera_pixel_sizes[0]
            listed = ", ".join(f"{focals[0] * pixel_size:.0f}" for focals in candidates)
            logger.warning(
                f"The pairs of photos do not agree on a focal length; starting from {listed} pixels."
            )
        for focals in candidates:
            start = start_from_focals(problem, focals)
            if start is not None:
                yield start

    def restart(self, problem: SfmProblem, registered: SfmState) -> Start | None:
        """Start again if registration changed the focal length much: early poses were wrong by as much.

        Args:
            problem: A connected component.
            registered: The state in which most images are registered.
        """
        change = np.abs(np.log(registered.focal / registered.initial_focal)).max()
        return start_from_focals(problem, registered.focal) if change > np.log(self.restart_factor) else None


def _candidate_focals(problem: SfmProblem) -> Sequence[Array]:
    """Focal lengths of all cameras to start from: several where the evidence is weak. (K,) each."""
    estimates, fix_focal = problem.focal_estimates, problem.priors.fix_focal
    if problem.initial_focals is not None:
        return [problem.initial_focals]
    if fix_focal:
        if problem.focal_prior is not None:
            return [problem.focal_prior.mean]
        return [np.array([prior_focal(side) for side in problem.camera_groups.longer_sides.tolist()])]
    if estimates is not None:
        return joint_starts(estimates)
    return focal_starts(problem.centered_keypoints, problem.pairs, problem.camera_groups, problem.seed)
