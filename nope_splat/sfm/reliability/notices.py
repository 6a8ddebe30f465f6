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

HARMLESS_NOTICES = ("stationary-pixels", "mirrored-images", "separated-cameras")
"""Codes of notices about problems that were solved; such notices are no reason to doubt the cameras."""


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
        *_support_notices(state, problem, evidence.has_repeated_pattern, training),
        *_consistency_notices(problem, evidence),
        *_view_notices(state, evidence),
        *_camera_notices(problem, evidence),
        *_focal_notices(state, problem, evidence),
        *_precision_notices(evidence),
        *_separation_notices(state, problem),
        *_stationary_notices(problem.images.stationary),
        *_mirrored_notices(problem.images.mirrored),
    )


def _support_notices(
    state: SfmState, problem: SfmProblem, has_repeated_pattern: bool, training: Mask
) -> Iterator[Notice]:
    """Warn if few images are registered, or if registered images have few observations."""
    options = problem.options.reliability
    num_registered, num_images = int((state.registered & training).sum()), int(training.sum())
    per_image = int(state.inlier.sum()) // max(num_registered, 1)
    if num_registered < options.min_registered_ratio * num_images:
        yield Notice(
            "weak-support",
            f"only {num_registered} of {num_images} photos are registered, so the result shows a part of the"
            " scene at best; add photos that overlap more",
        )
        if has_repeated_pattern:
            yield Notice(
                "repeated-pattern",
                "a pattern repeats in the photos (windows, tiles, or a watermark over the photos), and"
                " different parts of it match; remove the watermark, or include more that does not repeat",
            )
    elif per_image < options.min_observations_per_image:
        yield Notice(
            "weak-support",
            f"each photo shows only {per_image} track points on average, so the cameras are not well"
            " supported; add photos that overlap more or are sharper",
        )


def _precision_notices(evidence: Evidence) -> Iterator[Notice]:
    """Warn if the observations do not determine the poses precisely, or if the cameras moved in readout."""
    if evidence.pose_error > evidence.options.reliability.pose_precision.max_error:
        yield Notice(
            "uncertain-poses",
            f"the photos determine the directions between cameras only to about {evidence.pose_error:.1f}"
            " degrees; add photos that overlap more, are sharper, or are farther apart",
        )
    if evidence.has_rolling_shutter:
        yield Notice(
            "rolling-shutter",
            "the camera moved while the rows of each photo were read (rolling shutter):"
            f" {100 * evidence.rolling_shutter.along_rows:.0f} % of the errors follow this pattern; move more"
            " slowly, or take photos instead of a video",
        )


def _consistency_notices(problem: SfmProblem, evidence: Evidence) -> Iterator[Notice]:
    """Warn about contradicting pairs, missing points or moving objects, and name the likely cause."""
    options = problem.options.reliability.evidence
    num_contradicting, num_strong = int(evidence.contradicts.sum()), int(evidence.is_strong.sum())
    is_missing = evidence.missing_pair_fraction > options.max_missing_pair_ratio
    moves = evidence.second_motion_fraction >= options.min_second_motion_ratio
    if evidence.is_planar and not (num_contradicting or is_missing):
        moves = evidence.second_motion_fraction >= options.min_planar_second_motion_ratio
    if not (num_contradicting or is_missing or moves):
        return
    facts = "many matches support a motion different from the camera motion"
    if num_contradicting:
        facts = f"{num_contradicting} of {num_strong} pairs of photos contradict the cameras"
    elif is_missing:
        percentage = f"{100 * evidence.missing_pair_fraction:.0f} %"
        facts = (
            f"in {percentage} of neighboring pairs of photos, most points that both should show are missing"
        )
    if evidence.has_repeated_pattern:
        yield Notice(
            "repeated-pattern",
            f"a pattern repeats in the photos, and {facts}; cameras may be off by a period; include something"
            " that does not repeat, and move less between photos",
        )
    elif moves or num_contradicting > options.max_contradicting_pair_ratio * num_strong:
        yield Notice(
            "moving-objects",
            f"{facts}: the photos do not show one rigid scene, but moving objects or collages of several"
            " photos; mask the objects or remove such photos",
        )
    else:
        yield Notice(
            "duplicate-structure",
            f"{facts}: similar or moved objects may have been merged; reconstruct similar sides separately,"
            " or add photos that connect them",
        )


def _view_notices(state: SfmState, evidence: Evidence) -> Iterator[Notice]:
    """Warn if the images have only few distinct viewpoints."""
    num_images = int(state.registered.sum())
    if evidence.num_views < num_images / 2:
        yield Notice(
            "duplicate-structure",
            f"the {num_images} photos were taken from only {evidence.num_views} viewpoints: some are copies,"
            " or several similar sides were merged; remove copies, and reconstruct similar sides separately",
        )


def _camera_notices(problem: SfmProblem, evidence: Evidence) -> Iterator[Notice]:
    """Warn if the images do not fit one set of intrinsics, and name the images that deviate."""
    if not evidence.cameras_are_mixed:
        return
    deviates = np.flatnonzero(evidence.camera_profile.deviates)
    deviating = [problem.images.names[image_id] for image_id in deviates.tolist()]
    which = f"; {list_names(deviating)} differ most" if deviating else ""
    yield Notice(
        "mixed-cameras",
        f"the photos do not fit one camera{which}: some were cropped, zoomed or taken with another lens; use"
        " uncropped photos, or put the photos of each camera into a folder of its own and set camera-per"
        " folder",
    )


def _separation_notices(state: SfmState, problem: SfmProblem) -> Iterator[Notice]:
    """Report that images of the same size were separated into several cameras."""
    if problem.num_separated:
        focals = sorted((state.focal * problem.camera_groups.camera_pixel_sizes).tolist())
        yield Notice(
            "separated-cameras",
            "the photos do not fit one focal length, so they are separated into"
            f" {problem.camera_groups.num_cameras} cameras with focal lengths of"
            f" {' and '.join(f'{focal:.0f}' for focal in focals)} pixels; some were zoomed, cropped or taken"
            " with another lens",
        )


def _focal_notices(state: SfmState, problem: SfmProblem, evidence: Evidence) -> Iterator[Notice]:
    """Warn if the images do not determine the focal length, or if it is implausible for ordinary lenses."""
    profile = problem.options.reliability.focal_profile
    pixels = (state.focal * problem.camera_groups.camera_pixel_sizes).tolist()
    focal = f"{' and '.join(f'{value:.0f}' for value in pixels)} pixels"
    advice = "set initial-focal if you know it, or add photos from other directions"
    ratios = state.focal / state.longer_sides
    shortest, longest = profile.plausible_focal_ratios
    if problem.priors.known_cameras is None and not np.all((ratios > shortest) & (ratios < longest)):
        yield Notice(
            "implausible-focal-length",
            f"the estimated focal length is {focal}, which is unusual for a lens, so the cameras may be"
            " wrong; set initial-focal if you know it",
        )
    yield from _exif_notices(state, problem)
    if state.fix_focal:
        reason = "show one flat surface frontally, so they do" if problem.is_planar else "do"
        source = "follow from the EXIF data" if np.isfinite(problem.exif_focals).any() else "are assumed"
        yield Notice(
            "uncertain-focal-length",
            f"the photos {reason} not determine the focal length; {focal} {source}; {advice}",
        )
    elif not evidence.focal_is_determined:
        yield Notice(
            "uncertain-focal-length",
            f"the photos do not determine the focal length well: the estimate of {focal} may be off"
            f" by a third; {advice}",
        )


def _exif_notices(state: SfmState, problem: SfmProblem) -> Iterator[Notice]:
    """Warn if estimated focal lengths differ much from the focal lengths in the EXIF data."""
    registered = np.unique(state.camera_ids[state.registered])
    ratios = state.focal[registered] / problem.exif_focals[registered]
    differ = registered[np.abs(np.log(ratios)) > np.log(problem.options.reliability.max_exif_focal_ratio)]
    if not len(differ):
        return
    pixel_sizes = problem.camera_groups.camera_pixel_sizes[differ]
    stated, found = (
        " and ".join(f"{value:.0f}" for value in focals[differ] * pixel_sizes)
        for focals in (problem.exif_focals, state.focal)
    )
    yield Notice(
        "exif-focal-length",
        f"the focal length estimated from the photos is {found} pixels, but their EXIF data state {stated}"
        " pixels: the photos were cropped, or one of the two is wrong"
        + ("; to compare, set initial-focal to the latter" if len(problem.exif_focals) == 1 else ""),
    )


def _stationary_notices(stationary: Sequence[StationaryPixels]) -> Iterator[Notice]:
    """Report which pixels are not used because they are stationary."""
    for pixels in stationary:
        yield Notice(
            "stationary-pixels",
            f"{pixels.num_matches} matches, mostly in {pixels.region} of the photos, do not move with"
            " the scene (a logo, a dashboard, a frame, dirt, or identical sides of an object?);"
            f" {100 * pixels.fraction:.0f} % of the pixels are not used",
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
        NopeSplatError: If there is a notice whose code is not in `HARMLESS_NOTICES`.
    """
    doubts = [notice for notice in reconstruction.notices if notice.code not in HARMLESS_NOTICES]
    if doubts:
        raise NopeSplatError(
            "doubtful-cameras",
            f"{doubts[0].message}; to use the reconstruction anyway, remove the option strict",
        )
