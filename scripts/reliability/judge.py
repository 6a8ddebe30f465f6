"""Judgment of a reconstruction against true cameras: accuracy, wrong images and verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from nope_splat.evaluation.compare_cameras import compare_cameras
from nope_splat.geometry.rigid import nearest_rotation, rotation_log
from nope_splat.io.cameras import NamedCamera
from nope_splat.utils.typing import Array, Mask
from scripts.reliability.image_set import KNOWN_CAMERAS, ImageSet

MIN_AUC = 90.0
"""Reconstructions are correct if their AUC@5 over the registered images, in percent, exceeds this value."""
MAX_ROTATION_ERROR = 5.0
"""Maximum rotation error of a correct image in degrees, after alignment to the largest set of consistent
images."""
MAX_CENTER_ERROR = 0.05
"""Maximum position error of a correct image, as a fraction of the largest distance between two true
cameras."""

Verdict = Literal[
    "right",
    "refused",
    "warned",
    "wrong, other notice",
    "wrong silently",
    "wrong and praised",
    "thin silently",
    "misleading refusal",
    "crashed",
    "lost images",
    "false notice",
    "complete",
]
"""Verdict on a result and its notices. "complete" is the verdict for honest sets without true cameras."""

GOOD: tuple[Verdict, ...] = ("right", "refused", "warned", "complete")
"""Verdicts of results that are as they should be."""

PRAISE = re.compile(r"determine the focal length to")
"""Pattern of notices that confirm the accuracy of an estimate."""
OLD_NOTICES = {
    "uncertain-focal-length": re.compile(r"(hardly|not) show the focal length"),
}
"""Patterns of notices by code, for older versions of the package whose notices have no codes."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the registered images for which true cameras are known."""

    auc_5: float
    """AUC@5 over the registered images, percent. Of several images at the same position, only one is used."""
    auc_5_all: float
    """AUC@5 over all images, percent; unregistered images count as wrong."""
    ate: float
    """Absolute trajectory error, in percent of the largest distance between two true cameras."""
    focal_error: float
    """Relative error of the focal length, percent."""
    wrong_rotations: tuple[str, ...]
    """Names of the images with a wrong rotation, relative to the largest set of images with consistent
    rotations."""
    wrong_images: tuple[str, ...]
    """Names of the images with a wrong rotation or position, relative to the largest set of consistent
    images."""


def measure(estimated: Mapping[str, NamedCamera], truth: Mapping[str, NamedCamera]) -> Accuracy | None:
    """Measure the accuracy of estimated cameras.

    Args:
        estimated: Estimated cameras of the registered images, by name.
        truth: True cameras, by image name.

    Returns:
        The accuracy; None if fewer than two registered images have a true camera.
    """
    names = sorted(estimated.keys() & truth.keys())
    if len(names) < 2:
        return None
    wrong_rotations, wrong_images = wrong_cameras(
        np.stack([estimated[name].T_world_camera for name in names]),
        np.stack([truth[name].T_world_camera for name in names]),
    )
    distinct = _at_distinct_places({name: truth[name] for name in names})
    metrics = compare_cameras(estimated, {name: truth[name] for name in names})
    # Between images at the same position there is no direction, so all but one of them are judged by rotation
    # alone.
    auc_5 = 0.0
    if len(distinct) > 1:
        auc_5 = compare_cameras(estimated, {name: truth[name] for name in distinct}).auc_5
    return Accuracy(
        auc_5=auc_5,
        auc_5_all=compare_cameras(estimated, truth).auc_5,
        ate=metrics.ate,
        focal_error=metrics.focal_error,
        wrong_rotations=tuple(np.array(names)[wrong_rotations].tolist()),
        wrong_images=tuple(np.array(names)[wrong_images].tolist()),
    )


def _at_distinct_places(cameras: Mapping[str, NamedCamera]) -> list[str]:
    """Select one image per camera position, and return the names of these images."""
    centers = np.array([camera.T_world_camera[:3, 3] for camera in cameras.values()])
    _, first = np.unique(centers, axis=0, return_index=True)
    return np.array(list(cameras))[np.sort(first)].tolist()


def wrong_cameras(estimated: Array, truth: Array) -> tuple[Mask, Mask]:
    """Find the images that are inconsistent with the largest consistent set of images.

    The world frames are aligned by the rotation with the most consistent images, and by the scale and
    translation that the pair of images with the most inliers gives.

    Args:
        estimated: Estimated camera-to-world transforms. (N, 4, 4).
        truth: True camera-to-world transforms. (N, 4, 4).

    Returns:
        Masks of the images with a wrong rotation, and of the images with a wrong rotation or position. (N,)
        each.
    """
    alignments = truth[:, :3, :3] @ estimated[:, :3, :3].swapaxes(1, 2)
    between = alignments[:, None] @ alignments[None].swapaxes(2, 3)
    angles = np.degrees(np.linalg.norm(rotation_log(between), axis=-1))
    consistent = angles < MAX_ROTATION_ERROR
    agrees = consistent[consistent.sum(axis=1).argmax()]
    rotation = nearest_rotation(alignments[agrees].sum(axis=0))
    source, target = estimated[:, :3, 3] @ rotation.T, truth[:, :3, 3]
    tolerance = MAX_CENTER_ERROR * np.linalg.norm(target[:, None] - target, axis=-1).max()
    best = np.zeros(len(truth), dtype=bool)
    for first, second in combinations(np.flatnonzero(agrees).tolist(), 2):
        length = np.linalg.norm(source[first] - source[second])
        if length == 0:
            continue
        scale = np.linalg.norm(target[first] - target[second]) / length
        middle_source, middle_target = (centers[[first, second]].mean(axis=0) for centers in (source, target))
        errors = np.linalg.norm(scale * (source - middle_source) + middle_target - target, axis=1)
        inlier = agrees & (errors <= tolerance)
        if inlier.sum() > best.sum():
            best = inlier
    return ~agrees, ~best


def notice_codes(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the codes of the notices in an outcome.

    For versions of the package without codes, the codes are derived from the texts of the notices.

    Args:
        outcome: Outcome that `worker.py` wrote.
    """
    if outcome.get("notices"):
        return tuple(notice["code"] for notice in outcome["notices"])
    text = outcome.get("notice", "")
    if not text:
        return ()
    if PRAISE.search(text):
        return ("praise",)
    return tuple(code for code, words in OLD_NOTICES.items() if words.search(text)) or ("other",)


def verdict(
    image_set: ImageSet, outcome: Mapping[str, Any], accuracy: Accuracy | None, judged: bool
) -> Verdict:
    """Judge the cameras and the notices of an outcome.

    Args:
        image_set: The image set that was reconstructed.
        outcome: Outcome that `worker.py` wrote.
        accuracy: Accuracy of the registered images; None if it could not be measured.
        judged: Whether the set has true cameras.
    """
    if "crashed" in outcome:
        return "crashed"
    if "refused" in outcome:
        if image_set.honest:
            return "lost images"
        # If the message does not name the file of the cameras, the user looks for the error in the photos.
        misleads = image_set.known_cameras and KNOWN_CAMERAS not in outcome["refused"]["message"]
        return "misleading refusal" if misleads else "refused"
    codes = notice_codes(outcome)
    names_cause = bool(image_set.cause_codes & set(codes))
    num_registered, num_images = len(outcome["cameras"]), len(outcome["images"])
    if judged and (accuracy is None or accuracy.auc_5 <= MIN_AUC):
        if names_cause:
            return "warned"
        if any(PRAISE.search(text) for text in notice_texts(outcome)):
            return "wrong and praised"
        return "wrong, other notice" if codes else "wrong silently"
    if image_set.honest:
        if num_registered < num_images:
            return "lost images"
        if set(codes) - image_set.cause_codes:
            return "false notice"
        return "right" if judged else "complete"
    if num_registered < num_images / 2 and not names_cause and "weak-support" not in codes:
        return "thin silently"
    return "right"


def notice_texts(outcome: Mapping[str, Any]) -> list[str]:
    """Return the texts of the notices in an outcome."""
    texts = [notice["message"] for notice in outcome.get("notices", ())]
    return texts or [text for text in [outcome.get("notice", "")] if text]
