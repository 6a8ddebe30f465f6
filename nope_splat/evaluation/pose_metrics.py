"""Accuracy of estimated camera poses against ground truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nope_splat.geometry.rigid import invert, rotation_angles
from nope_splat.geometry.similarity import align_similarity
from nope_splat.utils.typing import Array

FAILED_PAIR_ERROR = 180.0
"""Error in degrees that is assigned to image pairs whose error is undefined: rotation error and translation
direction error if an image is unregistered, translation direction error if the two cameras have the same
position."""


@dataclass(frozen=True)
class PoseMetrics:
    """Accuracy of estimated cameras against ground truth.

    AUC, RRA and RTA evaluate the relative pose of every pair of ground truth images. Pairs with an
    unregistered image count as failed.
    """

    num_registered: int
    """Number of ground truth images that have an estimated pose."""
    num_images: int
    """Number of ground truth images."""
    auc_5: float
    """Area under the recall curve for pose error thresholds from 0 to 5 degrees, in percent. The pose error
    of an image pair is the larger of its rotation error and its translation direction error."""
    auc_30: float
    """Area under the recall curve for pose error thresholds from 0 to 30 degrees, in percent. The pose error
    of an image pair is the larger of its rotation error and its translation direction error."""
    rra_5: float
    """Relative rotation accuracy: percentage of image pairs with a rotation error below 5 degrees."""
    rta_5: float
    """Relative translation accuracy: percentage of image pairs with a translation direction error below 5
    degrees."""
    ate: float
    """Absolute trajectory error: RMSE of the camera centers after similarity alignment, in percent of the
    largest distance between two ground truth centers. NaN with fewer than three registered images, or if all
    estimated or all ground truth centers coincide."""
    focal_error: float
    """Relative error of the focal length in percent, positive if the estimate is too long; NaN if focal
    lengths were not compared."""


def compare_poses(
    estimated: Mapping[str, Array],
    truth: Mapping[str, Array],
    focal: float | None = None,
    true_focal: float | None = None,
) -> PoseMetrics:
    """Compare estimated poses to the ground truth, independently of world frame and scale.

    Args:
        estimated: Estimated camera-to-world transforms of the registered images, by image name. (4, 4) each.
        truth: Ground truth camera-to-world transforms of all images, by image name. (4, 4) each.
        focal: Estimated focal length; None to skip the focal length error.
        true_focal: Ground truth focal length, in the same unit; None to skip the focal length error.

    Returns:
        The metrics.
    """
    names = sorted(truth)
    registered = [name for name in names if name in estimated]
    num_failed = math.comb(len(names), 2) - math.comb(len(registered), 2)
    T_estimated, T_true = _stack(estimated, registered), _stack(truth, registered)
    rotation, translation = (
        np.append(errors, np.full(num_failed, FAILED_PAIR_ERROR))
        for errors in relative_pose_errors(T_estimated, T_true)
    )
    worst = np.maximum(rotation, translation)
    return PoseMetrics(
        num_registered=len(registered),
        num_images=len(names),
        auc_5=100 * area_under_recall(worst, 5.0),
        auc_30=100 * area_under_recall(worst, 30.0),
        rra_5=100 * float((rotation < 5).mean()),
        rta_5=100 * float((translation < 5).mean()),
        ate=_trajectory_error(T_estimated[:, :3, 3], T_true[:, :3, 3], _stack(truth, names)[:, :3, 3]),
        focal_error=100 * (focal / true_focal - 1) if focal and true_focal else float("nan"),
    )


def relative_pose_errors(estimated: Array, truth: Array) -> tuple[Array, Array]:
    """Compute the errors of the relative poses of all image pairs.

    Args:
        estimated: Estimated camera-to-world transforms. (n, 4, 4).
        truth: True camera-to-world transforms of the same images. (n, 4, 4).

    Returns:
        Rotation error and translation direction error of each of the P = n (n - 1) / 2 pairs, in degrees. The
        direction error is `FAILED_PAIR_ERROR` if the two cameras have the same position. (P,) each.
    """
    first, second = np.triu_indices(len(truth), 1)
    relative, relative_truth = (invert(poses[second]) @ poses[first] for poses in (estimated, truth))
    rotation = rotation_angles(relative[:, :3, :3] @ relative_truth[:, :3, :3].swapaxes(1, 2))
    return rotation, _angles(relative[:, :3, 3], relative_truth[:, :3, 3])


def area_under_recall(errors: Array, threshold: float) -> float:
    """Compute the normalized area under the recall curve.

    Recall at a threshold t is the fraction of errors below t.

    Args:
        errors: Non-negative errors. (n,).
        threshold: Largest t, in the unit of the errors; the smallest t is zero.

    Returns:
        Area divided by `threshold`, from 0 to 1.
    """
    errors = np.concatenate([[0.0], np.sort(errors)])
    recall = np.arange(len(errors)) / (len(errors) - 1)
    below = int(np.searchsorted(errors, threshold, side="right"))
    errors = np.concatenate([errors[:below], [threshold]])
    recall = np.concatenate([recall[:below], [recall[below - 1]]])
    return float((np.diff(errors) * (recall[1:] + recall[:-1]) / 2).sum() / threshold)


def _trajectory_error(estimated: Array, truth: Array, all_truth: Array) -> float:
    """Compute the RMSE of camera centers after similarity alignment, in percent of the ground truth's extent.

    Args:
        estimated: Estimated centers of registered images. (n, 3).
        truth: Ground truth centers of the same images, in the same order. (n, 3).
        all_truth: Ground truth centers of all images; their largest distance is the extent. (m, 3).

    Returns:
        Error in percent; NaN with fewer than three registered images, or if all estimated or all ground truth
        centers coincide.
    """
    extent = np.linalg.norm(all_truth[:, None] - all_truth, axis=-1).max()
    if len(estimated) < 3 or np.ptp(estimated, axis=0).max() == 0 or extent == 0:
        return float("nan")
    aligned = align_similarity(estimated, truth).apply(estimated)
    return float(100 * np.sqrt(((aligned - truth) ** 2).sum(1).mean()) / extent)


def _stack(poses: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Stack the transforms of images, given their names. (n, 4, 4)."""
    return np.array([poses[name] for name in names]).reshape(-1, 4, 4)


def _angles(first: Array, second: Array) -> Array:
    """Compute the angles between vectors in degrees; `FAILED_PAIR_ERROR` where a vector is zero.

    (P, 3), (P, 3) -> (P,).
    """
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = np.einsum("pi,pi->p", first, second) / np.maximum(lengths, 1e-24)
    return np.where(lengths < 1e-24, FAILED_PAIR_ERROR, np.degrees(np.arccos(np.clip(cosines, -1, 1))))
