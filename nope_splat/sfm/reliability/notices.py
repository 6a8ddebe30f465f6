"""Notices about a finished reconstruction, each with its cause and a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.stationary import StationaryPixels
from nope_splat.scene.trust import Notice
from nope_splat.sfm.diagnostics import list_names
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Mask

HARMLESS = ("stationary-pixels", "mirrored-images")
"""Notices about pixels or images that are not used; they are no reason to doubt the rest of the
reconstruction."""


def collect_notices(
    state: SfmState, problem: SfmProblem, evidence: Evidence, training: Mask
) -> tuple[Notice, ...]:
    """Collect the notices about a reconstruction, the most important first.

    Args:
        state: The refined state.
        problem: Matches and images of the connected component.
        evidence: Comparison of the reconstruction with all verified matches.
        training: Whether each image is a training image. (N,).

    Returns:
        The notices; empty if there are none.
    """
    return (
        *_support_notices(state, problem, training),
        *_consistency_notices(problem, evidence),
        *_view_notices(state, evidence),
        *_focal_notices(state, problem, evidence),
        *_stationary_notices(problem.images.stationary),
        *_mirrored_notices(problem.images.mirrored),
    )


def _support_notices(state: SfmState, problem: SfmProblem, training: Mask) -> Iterator[Notice]:
    """Warn if few images are registered, or if registered images have few observations."""
    options = problem.options.reliability
    num_registered, num_images = int((state.registered & training).sum()), int(training.sum())
    per_image = int(state.inlier.sum()) // max(num_registered, 1)
    if num_registered < options.min_registered * num_images:
        yield Notice(
            "weak-support",
            f"only {num_registered} of {num_images} photos are registered, so the result shows a part of the"
            " scene at best; add photos that overlap more",
        )
    elif per_image < options.min_observations_per_image:
        yield Notice(
            "weak-support",
            f"each photo shows only {per_image} track points on average, so the cameras are not well"
            " supported; add photos that overlap more or are sharper",
        )


def _consistency_notices(problem: SfmProblem, evidence: Evidence) -> Iterator[Notice]:
    """Warn about contradicting pairs, missing points or moving objects, and name the likely cause."""
    options = problem.options.reliability.evidence
    num_contradicting, num_strong = int(evidence.contradicts.sum()), int(evidence.is_strong.sum())
    is_missing = evidence.missing_share > options.max_missing_pairs
    moves = evidence.second_motion_share >= options.min_second_motions
    if not (num_contradicting or is_missing or moves):
        return
    facts = "many matches agree with another motion than that of the cameras"
    if num_contradicting:
        facts = f"{num_contradicting} of {num_strong} pairs of photos contradict the cameras"
    elif is_missing:
        share = f"{100 * evidence.missing_share:.0f} %"
        facts = f"in {share} of the neighboring photos most points are missing where they should be visible"
    if evidence.repeats:
        yield Notice(
            "repeated-pattern",
            f"a pattern repeats in the photos, and {facts}; cameras may be off by a period: include something"
            " that does not repeat, and take smaller steps",
        )
    elif moves:
        yield Notice(
            "moving-objects",
            "different parts of the photos move against each other (something that moves, or a collage), and"
            f" {facts}; mask out what moves",
        )
    else:
        yield Notice(
            "duplicate-structure",
            f"{facts}: things that look alike, or that were moved between the photos, may have been taken for"
            " the same thing; reconstruct the sides separately, or add photos that connect them",
        )


def _view_notices(state: SfmState, evidence: Evidence) -> Iterator[Notice]:
    """Warn if the images show only few different views."""
    num_images = int(state.registered.sum())
    if evidence.num_views < num_images / 2:
        yield Notice(
            "duplicate-structure",
            f"the {num_images} photos show only {evidence.num_views} different views: some are copies, or"
            " several sides look alike and were taken for the same one",
        )


def _focal_notices(state: SfmState, problem: SfmProblem, evidence: Evidence) -> Iterator[Notice]:
    """Warn if the images do not determine the focal length, or if ordinary lenses do not have it."""
    profile = problem.options.reliability.focal_profile
    pixels = (state.focal * problem.camera_groups.camera_pixel_sizes).tolist()
    focal = f"{' and '.join(f'{value:.0f}' for value in pixels)} pixels"
    advice = "set initial-focal if you know it, or add photos from other directions"
    ratios = state.focal / state.longer_sides
    shortest, longest = profile.plausible_ratios
    if problem.priors.known_cameras is None and not np.all((ratios > shortest) & (ratios < longest)):
        yield Notice(
            "implausible-focal-length",
            f"the focal length came out as {focal}, which few lenses have, so the cameras may be wrong; set"
            " initial-focal if you know it",
        )
    if state.fix_focal:
        reason = "look straight at one flat surface, which does" if problem.is_planar else "do"
        yield Notice(
            "uncertain-focal-length",
            f"the photos {reason} not show the focal length, which is taken to be {focal}; {advice}",
        )
    elif not evidence.focal_is_determined:
        yield Notice(
            "uncertain-focal-length",
            f"the photos hardly show the focal length, which seems to be {focal}, but may be a third shorter"
            f" or longer; {advice}",
        )


def _stationary_notices(stationary: Sequence[StationaryPixels]) -> Iterator[Notice]:
    """Report which pixels are not used because they are stationary."""
    for pixels in stationary:
        yield Notice(
            "stationary-pixels",
            f"{pixels.num_matches} matches in {pixels.region} of the photos do not move with the scene (a"
            f" logo, a dashboard, a frame or dirt?); {100 * pixels.share:.0f} % of the pixels are not used",
        )


def _mirrored_notices(names: Sequence[str]) -> Iterator[Notice]:
    """Report the mirrored images, which are not registered."""
    if names:
        subject = f"{names[0]} is" if len(names) == 1 else f"{len(names)} photos ({list_names(names)}) are"
        yield Notice(
            "mirrored-images",
            f"{subject} mirrored compared to the other photos, and left out; flip or remove"
            f" {'it' if len(names) == 1 else 'them'}",
        )


def refuse_doubtful(reconstruction: Reconstruction) -> None:
    """Raise an error if a reconstruction has a notice that makes its cameras doubtful.

    Args:
        reconstruction: The finished reconstruction.

    Raises:
        NopeSplatError: If there is a notice whose code is not in `HARMLESS`.
    """
    doubts = [notice for notice in reconstruction.notices if notice.code not in HARMLESS]
    if doubts:
        raise NopeSplatError(
            "doubtful-cameras",
            f"{doubts[0].message}; without the option strict, the reconstruction is used nevertheless",
        )
