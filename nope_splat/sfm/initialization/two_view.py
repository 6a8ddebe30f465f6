"""Initialization by two views, with focal lengths estimated from verified pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt

from nope_splat.sfm.initialization.focal import focal_starts, joint_focal_starts, prior_focal
from nope_splat.sfm.initialization.start import Start, start_from_focals
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TwoViewInitialization:
    """Start from a pair of photos with many matches and enough parallax."""

    restart_factor: Annotated[float, Gt(1)] = 1.1
    """If bundle adjustment during registration changes the focal length by more than this factor,
    registration is repeated once, starting with the new focal length. A smaller factor makes the repetition
    more likely."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield a state without poses for each candidate set of initial focal lengths.

        Candidates for which no pair has a relative pose are skipped.

        Args:
            problem: Matches and priors of one connected component.
        """
        with problem.clock.stage("focal length"):
            candidates = _candidate_focals(problem)
        if len(candidates) > 1:
            pixel_size = problem.camera_groups.camera_pixel_sizes[0]
            listed = ", ".join(f"{focals[0] * pixel_size:.0f}" for focals in candidates)
            logger.warning(f"The photo pairs do not agree on a focal length; trying {listed} pixels.")
        for focals in candidates:
            start = start_from_focals(problem, focals)
            if start is not None:
                yield start

    def restart(self, problem: SfmProblem, registered: SfmState) -> Start | None:
        """Return a start with the refined focal lengths if they differ much from the initial focal lengths.

        The first poses were estimated with the initial focal lengths, and may be wrong if the initial focal
        lengths were wrong.

        Args:
            problem: Matches and priors of one connected component.
            registered: The best state so far, in which images are registered.

        Returns:
            The start; None if no focal length changed by more than `restart_factor`, or if no pair has a
            relative pose.
        """
        change = np.abs(np.log(registered.focal / registered.initial_focal)).max()
        return start_from_focals(problem, registered.focal) if change > np.log(self.restart_factor) else None


def _candidate_focals(problem: SfmProblem) -> Sequence[Array]:
    """List candidate sets of initial focal lengths; more than one only if pairs are inconsistent.

    Returns:
        Candidates to try; each contains the focal lengths of all cameras, in pixels at keypoint detection
        resolution. (K,) each.
    """
    estimates, options = problem.focal_estimates, problem.options.focal
    if problem.initial_focals is not None:
        return [problem.initial_focals]
    if problem.priors.fix_focal:
        longer_sides = problem.camera_groups.longer_sides.tolist()
        default = np.array([prior_focal(longer_side, options) for longer_side in longer_sides])
        return [problem.focal_prior(default).mean]
    if estimates is not None:
        return joint_focal_starts(estimates)
    return focal_starts(
        problem.pinhole_keypoints,
        problem.pairs,
        problem.camera_groups,
        problem.exif_focals,
        problem.seed,
        options,
    )
