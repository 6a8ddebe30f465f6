"""Structure from motion: the sequence of stages from a folder of images to cameras and points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nope_splat.io.images import ImageFolder, find_images
from nope_splat.matching.database import MatchDatabase, load_or_match
from nope_splat.scene.features import PairMatches
from nope_splat.scene.reconstruction import Reconstruction, normalize
from nope_splat.scene.tracks import match_graph
from nope_splat.sfm.camera_assignment import find_lenses
from nope_splat.sfm.checks import check_images, check_sfm_options
from nope_splat.sfm.component_reconstruction import RegisteredComponent, reconstruct_determined_cameras
from nope_splat.sfm.diagnostics import (
    failure_reasons,
    mirrored_failures,
    require_matches,
    training_components,
)
from nope_splat.sfm.initialization.depth_maps import find_initial_depths
from nope_splat.sfm.known_cameras_check import check_known_cameras
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.problem import Priors, SfmProblem
from nope_splat.sfm.registration.resection import resect_held_out
from nope_splat.sfm.reliability.doubtful_images import assess_reliability
from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.reliability.focal_profile import follow_focal_valley, prefer_exif_focals
from nope_splat.sfm.reliability.notices import collect_notices, refuse_doubtful
from nope_splat.sfm.reliability.trust import measure_trust
from nope_splat.sfm.result import (
    log_summary,
    point_colors,
    to_reconstruction,
)
from nope_splat.sfm.result_cache import ResultCache
from nope_splat.sfm.training_problem import read_known_cameras, training_problem
from nope_splat.sfm.zoom_separation import separate_zooms
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
        folder: The images, or the path of an image folder or a video. `SfmOptions.invert_masks` and
            `SfmOptions.frames` have an effect only if a path is given.
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
    if not isinstance(folder, ImageFolder):
        folder = find_images(folder, options.invert_masks, options.frames, cache_dir)
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
        training = reconstruct_separate_zooms(checked.problem, components, checked.options, matches.pairs)
    state, problem, evidence = training.registered.state, training.problem, training.evidence
    reconstruction, points_of_keypoints = to_reconstruction(state, folder, held_out, problem, graph)
    with clock.stage("held-out photos"):
        reconstruction, held_out_failures = resect_held_out(
            reconstruction, matches, points_of_keypoints, problem.camera_groups
        )
    unregistered = np.flatnonzero(~reconstruction.registered & ~held_out)
    failures = failure_reasons(names, unregistered, components, training.component, training.failures)
    failures |= held_out_failures | mirrored_failures(names, matches.mirrored, reconstruction.registered)
    with clock.stage("colors"):
        colors = point_colors(folder, reconstruction, problem.camera_groups)
    reconstruction = replace(
        reconstruction,
        colors=colors,
        failures=failures,
        notices=(*checked.notices, *collect_notices(state, problem, evidence, ~held_out)),
        trust=measure_trust(state, graph, evidence, int((~held_out).sum())),
        stationary=problem.images.stationary,
        lenses=find_lenses(folder.images, problem.camera_groups.camera_ids),
        seconds=clock.seconds,
    )
    return normalize(reconstruction)


@dataclass(frozen=True)
class TrainingCameras:
    """Reconstruction of the training images, checked against all their matches."""

    component: Indices
    """Image indices of the reconstructed connected component."""
    problem: SfmProblem
    """Matches, cameras and priors of the component."""
    registered: RegisteredComponent
    """Poses, intrinsics and points."""
    evidence: Evidence
    """Evidence for and against the reconstructed cameras, such as errors of the matches."""
    doubtful: dict[int, str]
    """Reasons why images lost their pose in the check against all matches, by image index."""

    @property
    def failures(self) -> dict[int, str]:
        """Reasons why images have no pose, by image index; images without a known reason are omitted."""
        return self.registered.failures | self.doubtful


def reconstruct_separate_zooms(
    whole: SfmProblem,
    components: Sequence[Indices],
    options: SfmOptions,
    pairs: Sequence[PairMatches],
) -> TrainingCameras:
    """Reconstruct the training images; split cameras whose images have different focal lengths, and repeat.

    Cameras are split while this improves the fit, at most `max_num_separations` times.

    Args:
        whole: Matches and priors of all training images.
        components: Image indices of each connected component, largest component first.
        options: Options of SfM.
        pairs: Verified matches of all images, including held-out images.

    Returns:
        The reconstruction with the lowest `CameraProfile.noise_ratio`: noise with shared intrinsics, divided
        by noise with separate intrinsics.

    Raises:
        NopeSplatError: If fewer than two images can be registered.
    """
    best = reconstruct_training_cameras(whole, components, options)
    for _ in range(options.mapper.reliability.camera_profile.max_num_separations):
        separated = separate_zooms(best.registered.state, best.evidence, whole, pairs)
        if separated is None:
            break
        logger.info("The photos do not fit one camera; they are separated by their focal lengths.")
        candidate = reconstruct_training_cameras(separated, components, options)
        if candidate.evidence.camera_profile.noise_ratio >= best.evidence.camera_profile.noise_ratio:
            break
        best, whole = candidate, separated
    return best


def reconstruct_training_cameras(
    whole: SfmProblem, components: Sequence[Indices], options: SfmOptions
) -> TrainingCameras:
    """Reconstruct one connected component, and check its cameras.

    Args:
        whole: Matches and priors of all training images.
        components: Image indices of each connected component, largest component first.
        options: Options of SfM.

    Returns:
        The reconstruction, without images whose matches contradict their pose.

    Raises:
        NopeSplatError: If fewer than two images can be registered.
    """
    component, problem, registered = reconstruct_determined_cameras(whole, components, options)
    state, keep_poses = registered.state, problem.priors.known_cameras is not None
    with problem.clock.stage("reliability"):
        profile = follow_focal_valley(state, problem.options, keep_poses)
        prefer_exif_focals(state, profile, problem)
        evidence, doubtful = assess_reliability(state, problem, profile.noise_ratio, options.keep_doubtful)
    return TrainingCameras(component, problem, registered, evidence, doubtful)
