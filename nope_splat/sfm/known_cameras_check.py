"""Check of known cameras against verified matches, before the cameras are used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.scene.trust import Notice
from nope_splat.sfm.diagnostics import list_names
from nope_splat.sfm.initialization.two_view import TwoViewInitialization
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.known_cameras_agreement import measure_agreement, pair_rays
from nope_splat.sfm.known_cameras_mistakes import Mistake, correct_intrinsics, find_mistake
from nope_splat.sfm.options import SfmOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.evidence import has_repeated_pattern
from nope_splat.utils.typing import Indices

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedCameras:
    """Input of SfM after the check of the known cameras (see `check_known_cameras`)."""

    problem: SfmProblem
    """Input of SfM, with the known cameras that are used; without known cameras if none is used."""
    options: SfmOptions
    """Options of SfM, with two-view initialization if no known camera is used."""
    notices: tuple[Notice, ...] = ()
    """Notice about the known cameras that are not used, and the reason; empty if all known cameras are
    used."""

    @contextmanager
    def explain_failure(self) -> Iterator[None]:
        """Extend the message of a `NopeSplatError` that is raised in the `with` block.

        If some known cameras are not used, the notice about them is put before the message, because their
        absence may be the cause of the error.
        """
        try:
            yield
        except NopeSplatError as error:
            if not self.notices:
                raise
            raise NopeSplatError(error.code, f"{self.notices[0].message}; without them, {error}") from error


def check_known_cameras(problem: SfmProblem, options: SfmOptions, names: Sequence[str]) -> CheckedCameras:
    """Compare known cameras with the matches, and leave out those that the matches contradict.

    1. If the matches contradict any known camera, other focal lengths are tried, also without the known
       principal point and distortion. The best intrinsics replace the known ones if the matches then
       contradict fewer cameras.
    2. If the matches still contradict most cameras, no known camera is used. If they contradict only some
       cameras, these are left out, and their images are registered like images without a known camera.
    3. If a pattern repeats within the images, the matches may be wrong. Then step 2 is skipped, and all
       cameras are used. Exception: if the matches contradict most cameras and a common mistake in the file
       explains this, no known camera is used.

    Args:
        problem: Input of SfM with all training images.
        options: Options of SfM.
        names: Names of all images.

    Returns:
        The input and the options with which SfM continues, and a notice about cameras that are not used.
        Without known cameras, input and options are unchanged.
    """
    known = problem.priors.known_cameras
    if known is None:
        return CheckedCameras(problem, options)
    with problem.clock.stage("known cameras"):
        return _check(problem, known, options, names)


def _check(
    problem: SfmProblem, known: KnownCameras, options: SfmOptions, names: Sequence[str]
) -> CheckedCameras:
    """Implement `check_known_cameras` for a problem whose priors contain the cameras `known`."""
    may_match_wrongly = has_repeated_pattern(problem, options.mapper.reliability.evidence)
    contradicted = find_contradicted(problem, known)
    if contradicted is None or len(contradicted):
        corrected = correct_intrinsics(problem, known)
        still_contradicted = find_contradicted(problem, corrected)
        if still_contradicted is not None and (
            contradicted is None or len(still_contradicted) < len(contradicted)
        ):
            _log_correction(known, corrected)
            known, contradicted = corrected, still_contradicted
    if contradicted is None:
        mistake = find_mistake(problem, known, names)
        if mistake is None and may_match_wrongly:
            return CheckedCameras(problem, options)
        without = replace(options, initialization=TwoViewInitialization())
        return CheckedCameras(_with_cameras(problem, None), without, (_all_contradict(known, mistake),))
    if len(contradicted) == 0 or may_match_wrongly:
        return CheckedCameras(_with_cameras(problem, known), options)
    remaining = known.select(np.setdiff1d(known.image_ids, contradicted))
    notice = _some_contradict(known, [str(names[image_id]) for image_id in contradicted.tolist()])
    return CheckedCameras(_with_cameras(problem, remaining), options, (notice,))


def find_contradicted(problem: SfmProblem, known: KnownCameras) -> Indices | None:
    """Find the images whose known cameras contradict the matches.

    Args:
        problem: Verified matches of the training images.
        known: The known cameras.

    Returns:
        Image indices, ascending. (n,). None if too few cameras agree with the matches (see
        `KnownCamerasOptions.min_consistent_camera_ratio`), or if all cameras that remain have the same
        position.
    """
    options = problem.options.known_cameras
    agreement = measure_agreement(pair_rays(problem, known), known, options)
    checked = agreement.checked_images
    contradicted = np.setdiff1d(checked, agreement.consistent_images(options.min_agreeing_pair_ratio))
    num_consistent = len(checked) - len(contradicted)
    if len(contradicted) and num_consistent < max(2, options.min_consistent_camera_ratio * len(checked)):
        return None
    remaining = np.isin(known.image_ids, contradicted, invert=True)
    has_baseline = np.ptp(known.T_world_camera[remaining, :3, 3], axis=0).any()
    return contradicted if has_baseline else None


def _with_cameras(problem: SfmProblem, known: KnownCameras | None) -> SfmProblem:
    """Replace the known cameras of a problem; None removes them."""
    return replace(problem, priors=replace(problem.priors, known_cameras=known))


def _log_correction(known: KnownCameras, corrected: KnownCameras) -> None:
    """Warn the user that the known intrinsics are replaced by corrected intrinsics."""
    factor = float(np.median(corrected.focal / known.focal))
    is_same_lens = np.array_equal(known.distortion, corrected.distortion)
    is_same_lens &= np.array_equal(known.offset, corrected.offset)
    changes = f"{factor:.2g} times the focal length" if abs(factor - 1) > 0.01 else "this focal length"
    if not is_same_lens:
        changes += ", but without distortion and with the principal point at the center"
    logger.warning(
        f"The poses in {known.source} agree with the matches, but the intrinsics do not; the poses are used"
        f" with {changes}."
    )


def _all_contradict(known: KnownCameras, mistake: Mistake | None) -> Notice:
    """Create the notice that no known camera is used; `mistake` is the cause, or None if it is unknown."""
    if mistake is None:
        reason, remedy = "", "check that they belong to these photos, their names and their axes"
    else:
        reason, remedy = f" ({mistake.cause})", mistake.remedy
    return Notice(
        "contradicting-known-cameras",
        f"the cameras in {known.source} contradict the matches of the photos{reason} and are not used;"
        f" {remedy}",
    )


def _some_contradict(known: KnownCameras, names: Sequence[str]) -> Notice:
    """Create the notice that the known cameras of the images with the given names are not used."""
    subject = f"the camera of {names[0]}" if len(names) == 1 else f"the cameras of {list_names(names)}"
    return Notice(
        "contradicting-known-cameras",
        f"{subject} in {known.source} contradict{'s' if len(names) == 1 else ''} the matches and"
        f" {'is' if len(names) == 1 else 'are'} not used; correct or remove"
        f" {'it' if len(names) == 1 else 'them'}",
    )
