"""Interface of the initializations, and a start without poses that several of them use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import TwoViews
from nope_splat.utils.typing import Array


@dataclass(frozen=True)
class Start:
    """Initial state for registration."""

    state: SfmState
    """Tracks and intrinsics, with or without initial poses."""
    two_views: TwoViews
    """Relative poses of the pairs, estimated with these intrinsics."""


class Initialization(Protocol):
    """Method that finds the first cameras; implementations are frozen dataclasses of their options."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield initial states for registration, the most promising one first.

        Args:
            problem: A connected component.
        """
        ...

    def restart(self, problem: SfmProblem, registered: SfmState) -> Start | None:
        """Return another start, from the result of registration, if it is likely to be better.

        Args:
            problem: A connected component.
            registered: The state with most registered images.
        """
        ...


def start_from_focals(problem: SfmProblem, focals: Array) -> Start | None:
    """Estimate relative poses at given focal lengths, and build tracks from their inliers.

    Args:
        problem: A connected component.
        focals: Focal length of each camera, feature pixels. (K,).

    Returns:
        The start, without poses; None if no pair has a relative pose.
    """
    with problem.clock.stage("relative poses"):
        two_views = problem.relative_poses(focals)
    if not two_views:
        return None
    with problem.clock.stage("tracks"):
        tracks = build_tracks(problem.keypoints, [two_view.matches for two_view in two_views.values()])
        state = problem.initial_state(tracks, focals)
    return Start(state, two_views)
