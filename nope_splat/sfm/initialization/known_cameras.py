"""Initialization by cameras that the user has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nope_splat.scene.tracks import build_tracks
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import triangulate_coarse_to_fine
from nope_splat.sfm.two_view_geometry import relative_poses


@dataclass(frozen=True)
class KnownCamerasInitialization:
    """Start from cameras in a file; the photos adjust them where they contradict them."""

    path: Path = field()
    """A `transforms.json`, or a folder with a COLMAP model. Photos that it lacks are registered."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield the state with the known cameras.

        Args:
            problem: A connected component, with known cameras among its priors.
        """
        known = problem.priors.known_cameras
        assert known is not None
        yield start_from_cameras(problem, known)

    def restart(self, problem: SfmProblem, registered: SfmState) -> None:
        """Never start again: the focal length is known."""


def start_from_cameras(problem: SfmProblem, known: KnownCameras) -> Start:
    """Triangulate tracks with known cameras and adjust both, coarse to fine.

    Args:
        problem: A connected component.
        known: Cameras of some of its images.

    Returns:
        A start in which the images with cameras are registered.
    """
    groups, options = problem.camera_groups, problem.options
    focals = known.focal * groups.longer_sides
    with problem.clock.stage("relative poses"):
        two_views = relative_poses(
            problem.centered_keypoints, problem.pairs, focals[groups.camera_ids], problem.seed
        )
    with problem.clock.stage("registration"):
        tracks = build_tracks(problem.keypoints, [view.matches for view in two_views.values()])
        state = SfmState.start(tracks, groups, focals, problem.priors.fix_focal, problem.focal_prior)
        known.place(state)
        triangulate_coarse_to_fine(state, options.min_tri_angle, options.ba_device)
    return Start(state, two_views)
