"""Initialization by known cameras."""

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


@dataclass(frozen=True)
class KnownCamerasInitialization:
    """Start from known cameras, which are kept unchanged unless the photos contradict them."""

    path: Path = field()
    """File or folder with the cameras: a `transforms.json`, a COLMAP model, or cameras exported from
    RealityScan, Metashape, OpenSfM or Polycam. Photos without a camera in this file or folder are registered
    by SfM."""

    def starts(self, problem: SfmProblem) -> Iterator[Start]:
        """Yield one start, in which the images with known cameras are registered.

        Args:
            problem: Connected component with known cameras in its priors.
        """
        known = problem.priors.known_cameras
        assert known is not None
        yield start_from_cameras(problem, known)

    def restart(self, problem: SfmProblem, registered: SfmState) -> None:
        """Return None: there is no second start, because the focal length is known."""


def start_from_cameras(problem: SfmProblem, known: KnownCameras) -> Start:
    """Register images with known cameras, triangulate tracks and bundle-adjust.

    Triangulation and bundle adjustment are repeated with decreasing maximum reprojection errors.

    Args:
        problem: A connected component.
        known: Poses of some images of the component, and intrinsics of all cameras.

    Returns:
        A start in which the images with known poses are registered.
    """
    groups, options = problem.camera_groups, problem.options
    focals = known.focal * groups.longer_sides
    with problem.clock.stage("relative poses"):
        two_views = problem.relative_poses(focals)
    with problem.clock.stage("registration"):
        tracks = build_tracks(problem.keypoints, [two_view.matches for two_view in two_views.values()])
        state = problem.initial_state(tracks, focals)
        known.register(state)
        triangulate_coarse_to_fine(state, options)
    return Start(state, two_views)
