"""Interface of the initialization methods, and an initial state with focal lengths but without poses."""

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
    """Initial state from which images are registered."""

    state: SfmState
    """State with tracks and intrinsics, with or without initial poses."""
    two_views: TwoViews
    """Relative poses and inlier matches of the image pairs, estimated with the intrinsics of `state`."""


class Initialization(Protocol):
    """Method that estimates the first cameras; each implementation is a frozen dataclass with its options."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield initial states for registration, the most promising state first.

        Args:
            problem: Matches and priors of one connected component.
        """
        ...

    def restart(self, problem: SfmProblem, registered: SfmState) -> Start | None:
        """Return a second start, based on the registered images, if it may lead to a better result.

        Args:
            problem: Matches and priors of one connected component.
            registered: The best state so far, in which images are registered.

        Returns:
            The second start; None if there is no reason to register again.
        """
        ...


def start_from_focals(problem: SfmProblem, focals: Array) -> Start | None:
    """Estimate relative poses with given focal lengths, and build tracks from the inlier matches.

    Args:
        problem: Matches and priors of one connected component.
        focals: Focal length of each camera, in pixels at keypoint detection resolution. (K,).

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
