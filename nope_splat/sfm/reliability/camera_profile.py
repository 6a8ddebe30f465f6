"""Profile of the cameras: would the observations fit much better if every image had its own intrinsics?

Images that were cropped, zoomed or taken with another lens do not fit the intrinsics that they share with
other images. Bundle adjustment compensates for this with wrong poses and points, often so well that the
reprojection errors are below one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.reliability.focal_profile import sample_observations
from nope_splat.sfm.reliability.options import CameraProfileOptions
from nope_splat.sfm.state import FocalPrior, SfmState
from nope_splat.utils.typing import Array, Mask


@dataclass(frozen=True)
class CameraProfile:
    """Effect of separate intrinsics for each of N images on the observation noise."""

    noise_ratio: float
    """Noise with shared intrinsics, divided by the noise with separate intrinsics; 1 if the focal length is
    fixed or there are too few observations."""
    deviates: Mask
    """Whether the separate intrinsics of each image are far from the median over the images that share its
    camera. (N,)."""
    focals: Array
    """Separate focal length of each image, in pixels at keypoint detection resolution; only valid for
    registered images. (N,)."""


def camera_profile(state: SfmState, options: CameraProfileOptions, device: str) -> CameraProfile:
    """Compare bundle adjustment with shared intrinsics and with separate intrinsics for each image.

    The separate intrinsics are a focal length and a principal point; the radial distortion is not refined.

    Args:
        state: The refined state; not changed.
        options: Number of observations and iterations, and thresholds beyond which an image deviates.
        device: PyTorch device for bundle adjustment.

    Returns:
        The effect on the noise, and the images that deviate.
    """
    if state.fix_focal:
        focals = state.focal[state.camera_ids]
        return CameraProfile(1.0, np.zeros(len(focals), bool), focals)
    adjustment = BundleAdjustmentOptions(
        max_iterations=options.max_iterations, tolerance=options.coarse_tolerance, device=device
    )
    noise_ratio, separate = _adjust_separately(state, options, adjustment)
    if noise_ratio > options.max_clear_ratio:
        adjustment = replace(adjustment, tolerance=options.tolerance)
        noise_ratio, separate = _adjust_separately(state, options, adjustment)
    deviates = np.zeros(len(state.registered), bool)
    for camera in np.unique(state.camera_ids[state.registered]):
        images = np.flatnonzero(state.registered & (state.camera_ids == camera))
        log_focal, offset = np.log(separate.focal[images]), separate.offset[images]
        shift = np.linalg.norm(offset - np.median(offset, axis=0), axis=1) / state.longer_sides[camera]
        deviates[images] = np.abs(log_focal - np.median(log_focal)) > options.max_log_focal_deviation
        deviates[images] |= shift > options.max_principal_point_deviation
    return CameraProfile(noise_ratio, deviates, separate.focal)


def _adjust_separately(
    state: SfmState, options: CameraProfileOptions, adjustment: BundleAdjustmentOptions
) -> tuple[float, SfmState]:
    """Bundle-adjust a sample of the observations with shared and with separate intrinsics.

    Args:
        state: The refined state; not changed.
        options: Number of observations.
        adjustment: Stopping criteria of both bundle adjustments.

    Returns:
        Ratio of the noise (see `CameraProfile.noise_ratio`), and the state with separate intrinsics.
    """
    rows = sample_observations(state, options.max_num_observations)
    separate = separate_cameras(state, options)
    shared_result = state.snapshot().bundle_adjust(adjustment, rows)
    separate_result = separate.bundle_adjust(replace(adjustment, refine_principal_point=True), rows)
    if shared_result is None or separate_result is None:
        return 1.0, separate
    return float(np.sqrt(shared_result.cost / separate_result.cost)), separate


def separate_cameras(state: SfmState, options: CameraProfileOptions) -> SfmState:
    """Give every image its own intrinsics, with weak priors, in a copy of the state.

    Args:
        state: State with poses and points; not changed.
        options: Standard deviation of the prior on the principal points.

    Returns:
        The copy, which has as many cameras as images.
    """
    prior = replace(state.intrinsics_prior, principal_point_sigma_ratio=options.principal_point_sigma_ratio)
    focal = state.focal[state.camera_ids]
    turns = state.upright_from_sensor.copy()
    turns[~turns.any(axis=(1, 2))] = np.eye(2)
    return replace(
        state.snapshot(),
        camera_ids=np.arange(len(state.registered)),
        focal=focal,
        initial_focal=focal,
        focal_prior=FocalPrior(focal, np.full(len(focal), prior.log_focal_sigma)),
        offset=state.offset[state.camera_ids],
        upright_from_sensor=turns,
        lens_ids=np.arange(len(focal)),
        distortion=state.distortion[state.camera_ids],
        is_fisheye=state.is_fisheye[state.camera_ids],
        intrinsics_prior=prior,
    )
