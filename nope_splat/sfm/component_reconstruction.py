"""Reconstruction of one connected component of the match graph: initialization, registration, refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nope_splat.errors import NopeSplatError
from nope_splat.sfm.diagnostics import no_initialization
from nope_splat.sfm.global_refinement import refine_globally
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.known_cameras import prefer_known_cameras
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.camera_precision import CameraPrecision
from nope_splat.sfm.retriangulation import rebuild_tracks
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.two_view_geometry import TwoViews
from nope_splat.utils.typing import Indices


@dataclass(frozen=True)
class RegisteredComponent:
    """Reconstruction of one connected component of the match graph."""

    state: SfmState
    """Poses, intrinsics, points and observations."""
    two_views: TwoViews
    """Relative poses and inlier matches of the image pairs."""
    failures: dict[int, str]
    """Reasons why images could not be registered, by image index; images without a known reason are
    omitted."""

    @property
    def score(self) -> tuple[int, int]:
        """Number of registered images and number of inlier observations; a larger tuple is better."""
        return int(self.state.registered.sum()), int(self.state.inlier.sum())


def reconstruct_determined_cameras(
    whole: SfmProblem, components: Sequence[Indices], options: SfmOptions
) -> tuple[Indices, SfmProblem, RegisteredComponent]:
    """Reconstruct one connected component; if necessary, again with a fixed focal length.

    `needs_fixed_focal` decides whether the second reconstruction is necessary.

    Args:
        whole: Matches and priors of all training images.
        components: Image indices of each connected component, largest component first.
        options: Options of SfM.

    Returns:
        Image indices of the reconstructed component, its matches and priors, and its reconstruction.

    Raises:
        NopeSplatError: If fewer than two images can be registered.
    """
    component, problem, registered = reconstruct_first_component(whole, components, options)
    if not problem.priors.fix_focal and needs_fixed_focal(problem, registered.state):
        registered = reconstruct_component(problem.with_fixed_focal(), options)
        if registered is None:
            raise no_initialization(options, has_parallax=True)
    if registered.state.registered.sum() < 2:
        raise NopeSplatError(
            "no-cameras",
            "no camera poses consistent with the photos were found; add photos with more overlap between"
            " neighbors",
        )
    return component, problem, registered


def reconstruct_first_component(
    whole: SfmProblem, components: Sequence[Indices], options: SfmOptions
) -> tuple[Indices, SfmProblem, RegisteredComponent]:
    """Reconstruct the first connected component that has parallax and can be initialized.

    With known cameras, parallax is not required.

    Args:
        whole: Matches and priors of all training images.
        components: Image indices of each connected component, largest component first.
        options: Options of SfM.

    Returns:
        Image indices of the component, its matches and priors, and its reconstruction.

    Raises:
        NopeSplatError: If no component has parallax and can be initialized.
    """
    has_parallax = False
    for component in components:
        problem = whole.component(component)
        if problem.priors.known_cameras is None and problem.is_pure_rotation:
            continue
        has_parallax = True
        registered = reconstruct_component(problem, options)
        if registered is not None:
            return component, problem, registered
    raise no_initialization(options, has_parallax)


def reconstruct_component(problem: SfmProblem, options: SfmOptions) -> RegisteredComponent | None:
    """Reconstruct one connected component: initialize, register images, rebuild tracks and refine globally.

    Args:
        problem: Matches and priors of the component.
        options: Options of SfM.

    Returns:
        The reconstruction; None if fewer than two images can be registered.
    """
    best = register_from_best_start(problem, options)
    if best is None:
        return None
    state, failures, clock = best.state, best.failures, problem.clock
    unregistered_matches = [
        two_view.matches
        for pair, two_view in best.two_views.items()
        if not state.registered[list(pair)].all()
    ]
    if unregistered_matches:  # rebuilt tracks may give unregistered images more visible points
        with clock.stage("tracks"):
            state = rebuild_tracks(state, problem, unregistered_matches)
        with clock.stage("registration"):
            failures = options.registration.register_remaining(
                state, best.two_views, options.mapper, problem.seed
            )
    with clock.stage("tracks"):
        state = rebuild_tracks(state, problem)
    with clock.stage("final adjustment"):
        failures = failures | refine_globally(state, options.mapper)
        if problem.priors.known_cameras is not None:
            prefer_known_cameras(state, problem.priors.known_cameras, options.mapper)
    return RegisteredComponent(state, best.two_views, failures)


def register_from_best_start(problem: SfmProblem, options: SfmOptions) -> RegisteredComponent | None:
    """Register images from each initial state of the initialization, and keep the best result.

    Args:
        problem: Matches and priors of one connected component.
        options: Options of SfM.

    Returns:
        The result with the most registered images, ties broken by the number of inlier observations; None if
        every result has fewer than two registered images.
    """
    best = None
    for start in options.initialization.starts(problem):
        best = _better(best, register(start, problem, options))
    if best is None:
        return None
    restart = options.initialization.restart(problem, best.state)
    return best if restart is None else _better(best, register(restart, problem, options))


def register(start: Start, problem: SfmProblem, options: SfmOptions) -> RegisteredComponent:
    """Register the images of a connected component from one initial state.

    Args:
        start: Initial state and relative poses; the state is changed in place.
        problem: Matches and priors of the component.
        options: Options of SfM.

    Returns:
        The registered images, and reasons why other images could not be registered.
    """
    state, registration = start.state, options.registration
    with problem.clock.stage("registration"):
        run = registration.register_remaining if state.registered.any() else registration.register
        failures = run(state, start.two_views, options.mapper, problem.seed)
    return RegisteredComponent(state, start.two_views, failures)


def _better(best: RegisteredComponent | None, candidate: RegisteredComponent) -> RegisteredComponent | None:
    """Return the candidate if it has at least two registered images and a higher score, otherwise `best`."""
    if candidate.score[0] < 2 or (best is not None and candidate.score <= best.score):
        return best
    return candidate


def needs_fixed_focal(problem: SfmProblem, state: SfmState) -> bool:
    """Decide whether the reconstruction must be repeated with a fixed focal length.

    Three conditions must hold:

    - Three standard deviations of the focal length exceed `GlobalRefinementOptions.max_focal_uncertainty`.
    - There are no known cameras.
    - The scene is planar, or the user gave a focal length. Images of a plane may agree with any focal length,
      and a given focal length is better than an uncertain estimate.

    Args:
        problem: Matches and priors of one connected component.
        state: The refined state.
    """
    priors, options = problem.priors, problem.options
    if priors.known_cameras is not None or not (problem.is_planar or priors.initial_focal is not None):
        return False
    precision = CameraPrecision.of(state, options.ba_device)
    return precision.focal_uncertainty > options.refinement.max_focal_uncertainty / 3
