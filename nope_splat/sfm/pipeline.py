"""Structure from motion: the sequence of stages from a folder of images to cameras and points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFolder, find_images
from nope_splat.matching.database import MatchDatabase, load_or_match
from nope_splat.scene.reconstruction import Reconstruction, normalize
from nope_splat.scene.tracks import match_graph
from nope_splat.sfm.checks import check_images, check_sfm_options
from nope_splat.sfm.diagnostics import (
    failure_reasons,
    mirrored_failures,
    no_initialization,
    require_matches,
    training_components,
)
from nope_splat.sfm.global_refinement import refine_globally
from nope_splat.sfm.initialization.depth_maps import find_initial_depths
from nope_splat.sfm.initialization.start import Start
from nope_splat.sfm.known_cameras import prefer_known_cameras
from nope_splat.sfm.known_cameras_check import check_known_cameras
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.problem import Priors, SfmProblem
from nope_splat.sfm.registration.resection import resect_held_out
from nope_splat.sfm.reliability.doubtful_images import doubt_cameras
from nope_splat.sfm.reliability.focal_profile import follow_focal_valley
from nope_splat.sfm.reliability.notices import collect_notices, refuse_doubtful
from nope_splat.sfm.reliability.trust import measure_trust
from nope_splat.sfm.result import (
    focal_uncertainty,
    log_summary,
    point_colors,
    to_reconstruction,
)
from nope_splat.sfm.result_cache import ResultCache
from nope_splat.sfm.retriangulation import rebuild_tracks
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.training_problem import read_known_cameras, training_problem
from nope_splat.sfm.two_view_geometry import TwoViews
from nope_splat.utils.stopwatch import Stopwatch
from nope_splat.utils.typing import Indices, Mask

logger = logging.getLogger(__name__)


def reconstruct(
    folder: ImageFolder | Path | str,
    held_out: Sequence[str] = (),
    options: SfmOptions | None = None,
    cache_dir: Path | None = None,
) -> Reconstruction:
    """Reconstruct cameras and track points from unordered images.

    Args:
        folder: The images, or the path to an image folder.
        held_out: Names of images held out for evaluation. They are matched, but their matches are used only
            to register the held-out images from the final points.
        options: Options of matching and SfM; default options if None.
        cache_dir: Folder in which matches and reconstructions are cached, keyed by image content and options;
            None for no cache.

    Returns:
        The reconstruction; `failures` lists the images that could not be registered, with reasons.

    Raises:
        NopeSplatError: If an option is out of range or conflicts with another option, or if the images cannot
            be reconstructed.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from nope_splat import reconstruct
        >>> from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
        >>> with TemporaryDirectory() as folder:
        ...     demo = render_demo_scene(Path(folder), DemoSceneConfig(num_images=6, size=(320, 240)))
        ...     scene = reconstruct(demo)
        >>> print(f"{scene.registered.sum()} of {len(scene.image_names)} images are registered")
        6 of 6 images are registered
        >>> bool(scene.reprojection_errors().mean() < 1.0)  # pixels
        True
    """
    options = options or SfmOptions()
    check_sfm_options(options)
    folder = folder if isinstance(folder, ImageFolder) else find_images(folder)
    check_images(options, folder, held_out)
    is_held_out = np.isin([image.name for image in folder.images], list(held_out))
    known_cameras = read_known_cameras(options, folder, is_held_out)
    cache = ResultCache.open(cache_dir, folder, held_out, options, known_cameras)
    reconstruction = cache.load()
    if reconstruction is None:
        clock = Stopwatch()
        with clock.stage("matching"):
            matches = load_or_match(folder, options.matching, cache.cache, cache.matches_key)
        with clock.stage("depth"):
            depths = find_initial_depths(options, folder, held_out, matches, cache_dir)
        priors = Priors(known_cameras, depths, options.initial_focal)
        reconstruction = reconstruct_from_matches(folder, is_held_out, matches, options, priors, clock)
        cache.store(reconstruction)
    log_summary(reconstruction)
    if options.strict:
        refuse_doubtful(reconstruction)
    return reconstruction


def reconstruct_from_matches(
    folder: ImageFolder,
    held_out: Mask,
    matches: MatchDatabase,
    options: SfmOptions,
    priors: Priors | None = None,
    clock: Stopwatch | None = None,
) -> Reconstruction:
    """Reconstruct cameras and track points from verified matches.

    Args:
        folder: The images.
        held_out: Whether each image is held out for evaluation; matches of held-out images are used only for
            resection. (N,).
        matches: Keypoints of all images, and their verified matches.
        options: Options of SfM.
        priors: Known cameras, depth maps and initial focal length; by default only the initial focal length
            of `options`.
        clock: Stopwatch with the wall times of earlier stages; by default a new one.

    Returns:
        The reconstruction.

    Raises:
        NopeSplatError: If the images cannot be reconstructed.
    """
    priors = priors or Priors(initial_focal=options.initial_focal)
    clock = clock or Stopwatch()
    matches = matches.without_stationary(folder, held_out, options.matching)
    whole = replace(training_problem(folder, held_out, matches, options, priors), clock=clock)
    graph = match_graph(len(folder.images), whole.pairs)
    names = [image.name for image in folder.images]
    checked = check_known_cameras(whole, options, names)
    with checked.explain_failure():
        components = training_components(graph)
        known = checked.problem.priors.known_cameras
        if known is not None:  # images with known poses need no matches
            components = [known.merge_components(components)]
        require_matches(names, held_out, matches, components, options.matching.min_matches)
        component, problem, registered = reconstruct_determined_cameras(
            checked.problem, components, checked.options
        )
    state = registered.state
    with clock.stage("reliability"):
        profile = follow_focal_valley(state, problem.options, keep_poses=known is not None)
        evidence, doubtful = doubt_cameras(state, problem, profile.noise_ratio, options.keep_doubtful)
    reconstruction, points_of_keypoints = to_reconstruction(state, folder, held_out, problem, graph)
    with clock.stage("held-out photos"):
        reconstruction, held_out_failures = resect_held_out(
            reconstruction, matches, points_of_keypoints, whole.camera_groups
        )
    unregistered = np.flatnonzero(~reconstruction.registered & ~held_out)
    failures = failure_reasons(names, unregistered, components, component, registered.failures | doubtful)
    failures |= held_out_failures | mirrored_failures(names, matches.mirrored, reconstruction.registered)
    with clock.stage("colors"):
        colors = point_colors(folder, reconstruction, whole.camera_groups)
    reconstruction = replace(
        reconstruction,
        colors=colors,
        failures=failures,
        notices=(*checked.notices, *collect_notices(state, problem, evidence, ~held_out)),
        trust=measure_trust(state, graph, evidence, int((~held_out).sum())),
        stationary=problem.images.stationary,
        seconds=clock.seconds,
    )
    return normalize(reconstruction)


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
    """Reconstruct one connected component, and repeat it with a fixed focal length if necessary.

    `needs_fixed_focal` decides whether it is necessary.

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
    uncertainty = focal_uncertainty(registered.state, options.mapper)
    if not problem.priors.fix_focal and needs_fixed_focal(problem, uncertainty):
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
    """Register images from every start of the initialization, and keep the best result.

    Args:
        problem: Matches and priors of one connected component.
        options: Options of SfM.

    Returns:
        The result with the most registered images and, among these, the most inlier observations; None if
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
    """Register the images of a connected component from one start.

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


def needs_fixed_focal(problem: SfmProblem, uncertainty: float) -> bool:
    """Decide whether the reconstruction must be repeated with a fixed focal length.

    Three conditions must hold:

    - Three standard deviations of the focal length exceed `GlobalRefinementOptions.max_focal_uncertainty`.
    - There are no known cameras.
    - The scene is planar, or the user gave a focal length. Images of a plane may agree with any focal length,
      and a given focal length is better than an uncertain estimate.

    Args:
        problem: Matches and priors of one connected component.
        uncertainty: Standard deviation of the focal length, divided by the focal length.
    """
    priors = problem.priors
    can_fix = priors.known_cameras is None and (problem.is_planar or priors.initial_focal is not None)
    return can_fix and uncertainty > problem.options.refinement.max_focal_uncertainty / 3
