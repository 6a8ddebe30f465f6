"""Interface of the initializations, and the start that they share: tracks without poses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import TwoView, relative_poses
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class Start:
    """A state from which images are registered."""

    state: SfmState
    """Tracks and intrinsics, with or without the first poses."""
    two_views: dict[tuple[int, int], TwoView]
    """Relative poses of the pairs at these intrinsics."""


class Initialization(Protocol):
    """A way of finding the first cameras: a frozen dataclass of its options."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield the states to register images from, the most likely one first.

        Args:
            problem: A connected component.
        """
        ...

    def restart(self, problem: SfmProblem, registered: SfmState) -> Start | None:
        """Start again with what the best registration found, if that promises more.

        Args:
            problem: A connected component.
            registered: The state in which most images are registered.
        """
        ...


def start_from_focals(problem: SfmProblem, focals: Array) -> Start | None:
    """Relative poses and tracks at given focal lengths, without any pose.

    Args:
        problem: A connected component.
        focals: Focal length of each camera, feature pixels. (K,).

    Returns:
        The start; None if no pair has a relative pose.
    """
    groups = problem.camera_groups
    with problem.clock.stage("relative poses"):
        two_views = relative_poses(
            problem.centered_keypoints, problem.pairs, focals[groups.camera_ids], problem.seed
        )
    if not two_views:
        return None
    with problem.clock.stage("tracks"):
        tracks = build_tracks(problem.keypoints, [view.matches for view in two_views.values()])
        state = SfmState.start(tracks, groups, focals, problem.priors.fix_focal, problem.focal_prior)
    return Start(state, two_views)
