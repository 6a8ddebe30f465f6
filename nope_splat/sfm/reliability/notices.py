"""Notices about a finished reconstruction, each with its cause and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nope_splat.scene.stationary import StationaryPixels
from nope_splat.scene.trust import Notice
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.evidence import Evidence
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Mask


@dataclass(frozen=True)
class ImageEvidence:
    """What matching found out about the images."""

    repetition: Array
    """Share of the keypoints of each image that look like another place of the same image. (N,)."""
    stationary: tuple[StationaryPixels, ...]
    """Pixels that stand still while the scene moves, by image size."""


def collect_notices(
    state: SfmState, problem: SfmProblem, images: ImageEvidence, evidence: Evidence, training: Mask
) -> tuple[Notice, ...]:
    """Collect the notices about a reconstruction, the most important first.

    Args:
        state: The refined state.
        problem: The connected component.
        images: What matching found out about the images.
        evidence: Comparison of the matches with the cameras.
        training: Images that are not held out. (N,).

    Returns:
        The notices; none if there is no reason for doubt.
    """
    return (
        *_support_notices(state, problem, training),
        *_consistency_notices(problem, images, evidence),
        *_focal_notices(state, problem, evidence),
        *_stationary_notices(images.stationary),
    )


def _support_notices(state: SfmState, problem: SfmProblem, training: Mask) -> Iterator[Notice]:
    """Warn if few images or few observations support the result."""
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


def _consistency_notices(
    problem: SfmProblem, images: ImageEvidence, evidence: Evidence
) -> Iterator[Notice]:
    """Name the likely cause if pairs contradict the cameras."""
    options = problem.options.reliability.evidence
    num_contradicting, num_strong = evidence.num_contradicting, evidence.num_strong
    num_missing = evidence.num_missing_pairs
    motions = [pair.num_second > 0 for pair in problem.pairs if len(pair.indices) >= options.min_num_matches]
    moves = bool(motions) and np.mean(motions) >= options.min_second_motions
    if not (num_contradicting or num_missing or moves):
        return
    if num_contradicting or not num_missing:
        facts = f"{num_contradicting} of {num_strong} pairs of photos contradict the cameras"
    else:
        facts = f"in {num_missing} pairs of photos most points are missing where they should be visible"
    matched = np.unique([(pair.first, pair.second) for pair in problem.pairs])
    if np.median(images.repetition[matched]) >= options.min_repetition:
        yield Notice(
            "repeated-pattern",
            f"a pattern repeats in the photos, and {facts}; cameras may be off by a period: include something"
            " that does not repeat, in smaller steps",
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


def _focal_notices(state: SfmState, problem: SfmProblem, evidence: Evidence) -> Iterator[Notice]:
    """Warn about a focal length that the images do not determine, or that no ordinary lens has."""
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
    """Tell which pixels are not used because they stand still."""
    for pixels in stationary:
        yield Notice(
            "stationary-pixels",
            f"{pixels.num_matches} matches in {pixels.region} of the photos do not move with the scene (a logo,"
            f" a dashboard, a frame or dirt?); {100 * pixels.share:.0f} % of the pixels are not used",
        )
