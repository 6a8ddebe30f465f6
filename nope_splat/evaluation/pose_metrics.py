"""Accuracy of camera poses against a ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nope_splat.geometry.similarity import align_similarity
from nope_splat.utils.typing import Array

FAILED = 180.0
"""Error in degrees of a pair of images of which one has no pose."""


@dataclass(frozen=True)
class PoseMetrics:
    """How estimated cameras compare with the truth.

    Pair errors are of the relative pose of every pair of true images; pairs with an image that
    was not registered count as failed.
    """

    num_registered: int
    """Images of the truth that have an estimated pose."""
    num_images: int
    """Images of the truth."""
    auc_5: float
    """Area under the recall curve of max(rotation, translation direction error) up to 5 degrees, percent."""
    auc_30: float
    """The same up to 30 degrees, percent."""
    rra_5: float
    """Relative rotation accuracy: pairs with a rotation error below 5 degrees, percent."""
    rta_5: float
    """Relative translation accuracy: pairs with a translation direction error below 5 degrees, percent."""
    ate: float
    """Root mean square distance of the aligned camera centers from the true ones, in percent of the largest
    distance between two true centers; NaN with fewer than three registered images."""
    focal_error: float
    """Focal length minus truth, in percent of the truth; NaN if not given."""


def compare_poses(
    estimated: Mapping[str, Array],
    truth: Mapping[str, Array],
    focal: float | None = None,
    true_focal: float | None = None,
) -> PoseMetrics:
    """Measure estimated poses, whatever their world frame and scale.

    Args:
        estimated: Image name to camera-to-world transform; only registered images. (4, 4) each.
        truth: Image name to camera-to-world transform. (4, 4) each.
        focal: Estimated focal length.
        true_focal: True focal length, in the same pixels.

    Returns:
        The metrics.
    """
    names = sorted(truth)
    rotation_errors, translation_errors = [], []
    for first, second in combinations(names, 2):
        if first not in estimated or second not in estimated:
            rotation_errors.append(FAILED)
            translation_errors.append(FAILED)
            continue
        relative = np.linalg.inv(estimated[second]) @ estimated[first]
        relative_truth = np.linalg.inv(truth[second]) @ truth[first]
        rotation_errors.append(_rotation_angle(relative[:3, :3] @ relative_truth[:3, :3].T))
        translation_errors.append(_angle(relative[:3, 3], relative_truth[:3, 3]))
    rotation, translation = np.array(rotation_errors), np.array(translation_errors)
    worst = np.maximum(rotation, translation)
    registered = [name for name in names if name in estimated]
    return PoseMetrics(
        num_registered=len(registered),
        num_images=len(names),
        auc_5=100 * area_under_recall(worst, 5.0),
        auc_30=100 * area_under_recall(worst, 30.0),
        rra_5=100 * float((rotation < 5).mean()),
        rta_5=100 * float((translation < 5).mean()),
        ate=_trajectory_error(
            np.array([estimated[name][:3, 3] for name in registered]).reshape(-1, 3),
            np.array([truth[name][:3, 3] for name in registered]).reshape(-1, 3),
            np.array([truth[name][:3, 3] for name in names]),
        ),
        focal_error=100 * (focal / true_focal - 1) if focal and true_focal else float("nan"),
    )


def area_under_recall(errors: Array, threshold: float) -> float:
    """Area under the curve of the share of errors below t, for t from zero to a threshold.

    Args:
        errors: Non-negative errors. (n,).
        threshold: End of the curve.

    Returns:
        Area as a share of the largest possible one, 0 to 1.
    """
    errors = np.concatenate([[0.0], np.sort(errors)])
    recall = np.arange(len(errors)) / (len(errors) - 1)
    below = int(np.searchsorted(errors, threshold, side="right"))
    t = np.concatenate([errors[:below], [threshold]])
    r = np.concatenate([recall[:below], [recall[below - 1]]])
    return float((np.diff(t) * (r[1:] + r[:-1]) / 2).sum() / threshold)


def _trajectory_error(estimated: Array, truth: Array, all_truth: Array) -> float:
    """Percent of the largest distance between true centers. (n, 3), (n, 3), (m, 3)."""
    if len(estimated) < 3 or np.ptp(estimated, axis=0).max() == 0:
        return float("nan")
    aligned = align_similarity(estimated, truth).apply(estimated)
    extent = np.linalg.norm(all_truth[:, None] - all_truth, axis=-1).max()
    return float(100 * np.sqrt(((aligned - truth) ** 2).sum(1).mean()) / extent)


def _rotation_angle(rotation: Array) -> float:
    """Angle of a rotation in degrees. (3, 3)."""
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def _angle(first: Array, second: Array) -> float:
    """Angle between two vectors in degrees, `FAILED` if one has no direction. (3,), (3,)."""
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    if lengths < 1e-24:
        return FAILED
    return float(np.degrees(np.arccos(np.clip(first @ second / lengths, -1, 1))))
