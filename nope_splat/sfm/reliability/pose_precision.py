"""Precision of the estimated poses, predicted from the noise of the observations."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

from nope_splat.evaluation.pose_metrics import relative_pose_errors
from nope_splat.geometry.rigid import invert
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.solver import sample_poses
from nope_splat.sfm.reliability.options import PosePrecisionOptions
from nope_splat.sfm.state import SfmState


def predict_pose_error(state: SfmState, options: PosePrecisionOptions, device: str) -> float:
    """Predict the mean error of the relative poses of all image pairs.

    Poses are sampled from the covariance of the last bundle adjustment, and compared with the estimated
    poses. The error of a pair is the larger of its rotation error and its translation direction error (only
    the rotation error if the cameras have nearly the same position), at most `max_pair_error` of the options.
    With 5 degrees, the mean error is 5 (1 - AUC@5 / 100). The prediction assumes that the camera model is
    right and that the observations are independent.

    Args:
        state: The refined state; not changed.
        options: Number of samples and of images.
        device: PyTorch device for the computation.

    Returns:
        Mean error in degrees; `max_pair_error` if the observations do not determine the poses.
    """
    adjustment = BundleAdjustmentOptions(
        max_iterations=0,
        refine_principal_point=np.any(state.offset, axis=1),
        refine_extra_params=state.distortion != 0,
        device=device,
    )
    result = state.snapshot().bundle_adjust(adjustment)
    if result is None:
        return options.max_pair_error
    samples = sample_poses(result.problem, result.noise, options.num_samples)
    if samples is None:
        return options.max_pair_error
    num_images = samples.shape[1]
    chosen = np.unique(np.linspace(0, num_images - 1, min(num_images, options.max_num_images)).astype(int))
    estimated = invert(result.problem.T_camera_world.cpu().numpy()[chosen])
    baselines = pdist(estimated[:, :3, 3])
    has_direction = baselines > options.min_baseline_ratio * baselines.max()
    errors = []
    for poses in invert(samples.cpu().numpy()[:, chosen]):
        rotation, direction = relative_pose_errors(poses, estimated)
        pair_errors = np.maximum(rotation, np.where(has_direction, direction, 0.0))
        errors.append(pair_errors.clip(max=options.max_pair_error).mean())
    return float(np.mean(errors))
