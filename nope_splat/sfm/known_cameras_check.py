"""Check of known cameras against verified matches, before anything else uses them."""

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
from nope_splat.sfm.reliability.evidence import repeats
from nope_splat.utils.typing import Indices

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedCameras:
    """Known cameras that the matches do not contradict."""

    problem: SfmProblem
    """The problem with these cameras, or without known cameras if the matches contradict most of them."""
    options: SfmOptions
    """Options with an initialization that fits."""
    notices: tuple[Notice, ...] = ()
    """What was not used, and why."""

    @contextmanager
    def explain_failure(self) -> Iterator[None]:
        """If the block raises an error, prepend that known cameras were not used: this may be its cause."""
        try:
            yield
        except NopeSplatError as error:
            if not self.notices:
                raise
            raise NopeSplatError(error.code, f"{self.notices[0].message}; without them, {error}") from error


def check_known_cameras(problem: SfmProblem, options: SfmOptions, names: Sequence[str]) -> CheckedCameras:
    """Compare known cameras with the matches, and leave out those that the matches contradict.

    Images whose cameras are left out are registered like images without a camera. If most cameras contradict
    the matches, a wrong focal length is corrected, and otherwise no camera is used. Where a pattern repeats,
    the matches may be wrong, and cameras are used unless a common mistake explains the matches.

    Args:
        problem: Problem of all training images.
        options: Options of SfM.
        names: Names of all images.

    Returns:
        The cameras that are left; without known cameras, the same problem.
    """
    known = problem.priors.known_cameras
    if known is None:
        return CheckedCameras(problem, options)
    with problem.clock.stage("known cameras"):
        return _check(problem, known, options, names)


def _check(
    problem: SfmProblem, known: KnownCameras, options: SfmOptions, names: Sequence[str]
) -> CheckedCameras:
    """Compare known cameras with the matches, as in `check_known_cameras`."""
    may_match_wrongly = repeats(problem, options.mapper.reliability.evidence)
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
    rest = known.only(np.setdiff1d(known.image_ids, contradicted))
    notice = _some_contradict(known, [str(names[image_id]) for image_id in contradicted.tolist()])
    return CheckedCameras(_with_cameras(problem, rest), options, (notice,))


def find_contradicted(problem: SfmProblem, known: KnownCameras) -> Indices | None:
    """Find the images whose known cameras the matches contradict.

    Args:
        problem: Verified matches of the training images.
        known: The cameras.

    Returns:
        Image indices, ascending, (n,); None if that is most of the images, or the others are at one place.
    """
    options = problem.options.known_cameras
    agreement = measure_agreement(pair_rays(problem, known), known, options)
    checked = agreement.checked_images
    contradicted = np.setdiff1d(checked, agreement.consistent_images(options.min_consistency))
    num_consistent = len(checked) - len(contradicted)
    if len(contradicted) and num_consistent < max(2, options.min_consistent * len(checked)):
        return None
    rest = np.isin(known.image_ids, contradicted, invert=True)
    has_baseline = np.ptp(known.T_world_camera[rest, :3, 3], axis=0).any()
    return contradicted if has_baseline else None


def _with_cameras(problem: SfmProblem, known: KnownCameras | None) -> SfmProblem:
    """Replace the known cameras of a problem."""
    return replace(problem, priors=replace(problem.priors, known_cameras=known))


def _log_correction(known: KnownCameras, corrected: KnownCameras) -> None:
    """Tell that other intrinsics than the known ones are used."""
    factor = float(np.median(corrected.focal / known.focal))
    is_same_lens = np.array_equal(known.radial, corrected.radial)
    is_same_lens &= np.array_equal(known.offset, corrected.offset)
    changes = f"{factor:.2g} times the focal length" if abs(factor - 1) > 0.01 else "this focal length"
    if not is_same_lens:
        changes += ", but without distortion and with the principal point at the center"
    logger.warning(
        f"The poses in {known.source} agree with the matches, but the intrinsics do not; they are used with"
        f" {changes}."
    )


def _all_contradict(known: KnownCameras, mistake: Mistake | None) -> Notice:
    """Create the notice that no known camera is used."""
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
    """Create the notice that some known cameras are not used."""
    subject = f"the camera of {names[0]}" if len(names) == 1 else f"the cameras of {list_names(names)}"
    return Notice(
        "contradicting-known-cameras",
        f"{subject} in {known.source} contradict{'s' if len(names) == 1 else ''} the matches and"
        f" {'is' if len(names) == 1 else 'are'} not used; correct or remove"
        f" {'it' if len(names) == 1 else 'them'}",
    )
