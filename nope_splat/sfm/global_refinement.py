"""Final global refinement: retriangulate, bundle-adjust with free intrinsics, filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.solver import BundleResult, intrinsics_covariance
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import extend, filter_observations, triangulate
from nope_splat.utils.typing import Array, Mask

ROUNDS = (8.0, 4.0, 2.5)
"""Largest reprojection error of an observation in each round, feature pixels."""
ROUGH_TOLERANCE = 1e-3
"""Relative decrease of the cost at which adjustments before the last one stop."""
MAX_SIGMAS = 3.0
"""Intrinsics that lie beyond this many standard deviations of their prior explain something else."""
MAX_UNCERTAINTY = 0.25
"""Largest uncertainty of intrinsics, as a share of the prior's, at which the images determine them."""
PLAIN_GAIN = 1.25
"""Noise of the observations without distortion over that with it, from which on a lens plainly bends.
Images that are as good as straight, or were straightened, are best compared with as they are."""
MIN_OBSERVATIONS = 10
"""Fewest observations that keep an image in the scene."""


def refine_globally(state: SfmState, options: MapperOptions) -> dict[int, str]:
    """Retriangulate, extend, adjust and filter in rounds of falling thresholds, in place.

    Args:
        state: A state with poses.
        options: Triangulation and bundle adjustment.

    Returns:
        Images that lost their pose on the way, with the reason.
    """
    lost: dict[int, str] = {}
    min_angle = options.min_tri_angle
    adjustment = BundleAdjustmentOptions(tolerance=ROUGH_TOLERANCE, device=options.ba_device)
    for number, max_error in enumerate(ROUNDS):
        triangulate(state, max_error, min_angle)
        extend(state, max_error)
        state.adjust(adjustment)
        state.estimate_noise()
        if number == 0 and options.refine_principal_point:
            free = _free_principal_point(state, adjustment)
            adjustment = replace(adjustment, refine_principal_point=free)
        if number == 0 and options.refine_extra_params is not False:
            least_gain = PLAIN_GAIN if options.refine_extra_params is None else 0.0
            free = _free_radial_distortion(state, adjustment, least_gain)
            adjustment = replace(adjustment, refine_extra_params=free)
        filter_observations(state, max_error, min_angle)
        lost |= _drop_weak_images(state, min_angle)
        state.rescale()
    state.adjust(replace(adjustment, tolerance=BundleAdjustmentOptions.tolerance))
    filter_observations(state, ROUNDS[-1], min_angle)
    return lost | _drop_weak_images(state, min_angle)


def _free_principal_point(state: SfmState, options: BundleAdjustmentOptions) -> Mask:
    """Adjust with the principal points, of cameras whose images determine them. (K,)."""
    sigma = state.offset_sigma
    orientations = np.unique(np.column_stack([state.camera_ids, state.half_size]), axis=0)[:, 0].astype(int)

    def determined(deviation: Array) -> Mask:
        near = np.linalg.norm(state.offset, axis=1) < MAX_SIGMAS * sigma
        return near & (deviation[:, 1:3].max(1) < MAX_UNCERTAINTY * sigma)

    return _free_where_determined(
        state,
        np.bincount(orientations) == 1,
        lambda free: state.adjust(replace(options, refine_principal_point=free)),
        determined,
    )


def _free_radial_distortion(state: SfmState, options: BundleAdjustmentOptions, least_gain: float) -> Mask:
    """Adjust with radial distortion, of cameras whose images determine it. (K,)."""
    sigma = state.radial_sigma

    def determined(deviation: Array) -> Mask:
        near = np.abs(state.radial) < MAX_SIGMAS * sigma
        return (near & (deviation[:, 3:] < MAX_UNCERTAINTY * sigma)).all(1)

    return _free_where_determined(
        state,
        np.ones(len(state.focal), bool),
        lambda free: state.adjust(replace(options, refine_extra_params=free)),
        determined,
        least_gain,
    )


def _free_where_determined(
    state: SfmState,
    free: Mask,
    adjust: Callable[[Mask], BundleResult | None],
    determined: Callable[[Array], Mask],
    least_gain: float = 0.0,
) -> Mask:
    """Adjust with more intrinsics free, and again with less until all that are free are determined.

    Args:
        state: Changed in place.
        free: Cameras whose intrinsics may be free. (K,).
        adjust: Adjusts the scene with the intrinsics of some cameras (K,) free.
        determined: Of which cameras the images determine them, by their standard deviations (K, 5).
        least_gain: None are free that do not make the observations less noisy by this factor.

    Returns:
        Cameras of which they do, with which the scene is adjusted. (K,).
    """
    while free.any():
        before = state.snapshot()
        result = adjust(free)
        covariance = None if result is None else intrinsics_covariance(result.problem)
        if result is None or covariance is None or result.initial_cost < least_gain**2 * result.cost:
            kept = np.zeros_like(free)
        else:
            deviation = result.noise * covariance.diagonal().cpu().numpy() ** 0.5
            kept = free & determined(deviation.reshape(len(free), -1))
        if (kept == free).all():
            break
        state.restore(before)
        free = kept
    return free


def _drop_weak_images(state: SfmState, min_angle: float) -> dict[int, str]:
    """Take out images that hardly any observation supports."""
    support = np.bincount(state.image_ids[state.inlier], minlength=len(state.registered))
    weak = np.flatnonzero(state.registered & (support < MIN_OBSERVATIONS))
    if len(weak):
        state.registered[weak] = False
        state.inlier &= state.registered[state.image_ids]
        filter_observations(state, np.inf, min_angle)
    return {
        int(image_id): f"only {support[image_id]} observations of track points survived adjustment"
        for image_id in weak
    }
