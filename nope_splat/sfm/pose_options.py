"""Options and results of the estimation of absolute and relative poses, named as in COLMAP."""

from __future__ import annotations

from dataclasses import dataclass

from nope_splat.utils.typing import Array, Mask


@dataclass(frozen=True)
class AbsolutePoseOptions:
    """Options of absolute pose estimation (PnP); errors are in pixels of the given image coordinates."""

    abs_pose_max_error: float
    """Maximum reprojection error of an inlier, in pixels."""
    abs_pose_min_num_inliers: int
    """Minimum number of inliers for a pose to be accepted."""
    abs_pose_min_inlier_ratio: float = 0.0
    """Minimum fraction of inliers among the points for a pose to be accepted."""
    loss_scale: float = 1.0
    """Width of the Cauchy loss in the refinement of the pose, in pixels."""
    min_num_trials: int = 100
    """Minimum number of RANSAC iterations."""
    max_num_trials: int = 10_000
    """Maximum number of RANSAC iterations."""
    random_seed: int = 0
    """Random seed of RANSAC."""
    max_num_refinements: int = 0
    """Maximum number of steps that refine the pose on its inliers after RANSAC; 0 for no such refinement."""


@dataclass(frozen=True)
class RelativePoseOptions:
    """Options of relative pose estimation; errors are in pixels of the given image coordinates."""

    max_epipolar_error: float
    """Maximum epipolar error of an inlier, in pixels."""
    loss_scale: float = 1.0
    """Width of the Cauchy loss in the refinement of the pose, in pixels."""
    min_num_trials: int = 100
    """Minimum number of RANSAC iterations."""
    max_num_trials: int = 5_000
    """Maximum number of RANSAC iterations."""
    random_seed: int = 0
    """Random seed of RANSAC."""


@dataclass(frozen=True)
class EstimatedPose:
    """Absolute or relative pose with its inliers."""

    T: Array
    """World-to-camera transform for an absolute pose, or transform from the first to the second camera for a
    relative pose (OpenCV axes). (4, 4)."""
    inliers: Mask
    """Whether each correspondence agrees with the pose. (n,)."""
    success: bool
    """Whether the pose has enough inliers."""
