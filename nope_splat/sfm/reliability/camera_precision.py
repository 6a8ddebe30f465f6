"""Precision of the estimated cameras, predicted from the noise of the observations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.distance import pdist

from nope_splat.evaluation.pose_metrics import relative_pose_errors
from nope_splat.geometry.rigid import invert
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.solver import (
    BundleResult,
    Information,
    intrinsics_covariance,
    sample_poses,
)
from nope_splat.sfm.reliability.options import PosePrecisionOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices


@dataclass(frozen=True)
class CameraPrecision:
    """Precision of the cameras of a state, predicted from one linearization of bundle adjustment.

    Principal points and distortions that were refined count as unknown. The prediction assumes that the
    camera model is right and that the observations are independent.
    """

    adjustment: BundleResult | None
    """Bundle adjustment without any step; None if there are too few observations."""
    camera_ids: Indices
    """Camera of each registered image. (n,)."""

    @classmethod
    def of(cls, state: SfmState, device: str) -> CameraPrecision:
        """Linearize bundle adjustment at a state.

        Args:
            state: The refined state; not changed.
            device: PyTorch device for the computation.
        """
        options = BundleAdjustmentOptions(
            max_iterations=0,
            refine_principal_point=np.any(state.offset, axis=1),
            refine_extra_params=state.distortion != 0,
            device=device,
        )
        return cls(state.snapshot().bundle_adjust(options), state.camera_ids[state.registered])

    @cached_property
    def _information(self) -> Information | None:
        return None if self.adjustment is None else Information.of(self.adjustment.problem)

    @cached_property
    def focal_uncertainty(self) -> float:
        """Relative standard deviation of the focal length.

        It is the largest value among cameras with a registered image; zero if the focal length is fixed,
        infinite if the observations do not constrain the cameras.
        """
        result = self.adjustment
        covariance = None if result is None else intrinsics_covariance(result.problem, self._information)
        if result is None or covariance is None:
            return float("inf")
        num_cameras = len(result.problem.intrinsics)
        variances = covariance.diagonal().cpu().numpy().reshape(num_cameras, -1)[:, 0]
        return result.noise * float(variances[self.camera_ids].max()) ** 0.5

    def pose_error(self, options: PosePrecisionOptions) -> float:
        """Predict the mean error of the relative poses of all image pairs.

        Poses are sampled from their covariance, and compared with the estimated poses. The error of a pair is
        the larger of its rotation error and its translation direction error (only the rotation error if the
        cameras have nearly the same position), at most `max_pair_error` of the options. With 5 degrees, the
        mean error is 5 (1 - AUC@5 / 100).

        Args:
            options: Number of samples and of images.

        Returns:
            Mean error in degrees; `max_pair_error` if the observations do not determine the poses.
        """
        result = self.adjustment
        if result is None:
            return options.max_pair_error
        samples = sample_poses(result.problem, result.noise, options.num_samples, self._information)
        if samples is None:
            return options.max_pair_error
        num_images = samples.shape[1]
        chosen = np.unique(
            np.linspace(0, num_images - 1, min(num_images, options.max_num_images)).astype(int)
        )
        estimated = invert(result.problem.T_camera_world.cpu().numpy()[chosen])
        baselines = pdist(estimated[:, :3, 3])
        has_direction = baselines > options.min_baseline_ratio * baselines.max()
        errors = []
        for poses in invert(samples.cpu().numpy()[:, chosen]):
            rotation, direction = relative_pose_errors(poses, estimated)
            pair_errors = np.maximum(rotation, np.where(has_direction, direction, 0.0))
            errors.append(pair_errors.clip(max=options.max_pair_error).mean())
        return float(np.mean(errors))
