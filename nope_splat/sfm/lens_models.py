"""Choice of each camera's lens model: the simplest one that explains the observations.

The models are those of COLMAP, with one focal length: SIMPLE_PINHOLE, RADIAL (k1, k2) and OPENCV (k1, k2, p1,
p2) for perspective lenses, RADIAL_FISHEYE (k1, k2) and OPENCV_FISHEYE (k1 to k4) for fisheye lenses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from nope_splat.geometry.distortion import distort, distortion_term_jacobian
from nope_splat.geometry.projection import LensModel, equidistant, unproject
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.significance import score_probabilities
from nope_splat.sfm.bundle_adjustment.solver import BundleResult, intrinsics_covariance
from nope_splat.sfm.mapper_options import GlobalRefinementOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Array, Mask

RADIAL = np.array([True, True, False, False, False, False])
"""Coefficients of the models RADIAL and RADIAL_FISHEYE: k1 and k2. (6,)."""
TANGENTIAL = np.array([False, False, False, False, True, True])
"""Coefficients that OPENCV adds to RADIAL: p1 and p2. (6,)."""
HIGHER_RADIAL = np.array([False, False, True, True, False, False])
"""Coefficients that OPENCV_FISHEYE adds to RADIAL_FISHEYE: k3 and k4. (6,)."""


def refine_lens_models(
    state: SfmState, adjustment: BundleAdjustmentOptions, options: GlobalRefinementOptions, always: bool
) -> Mask:
    """Choose a lens model for each camera and bundle-adjust with its coefficients free.

    First, k1 and k2 are refined where the images determine them. Where a lens bends the image strongly, a
    fisheye lens is tried instead. Finally, further coefficients are added where they are significant.

    Args:
        state: State with poses and points; changed in place.
        adjustment: Options of bundle adjustment so far.
        options: Limits of significance and uncertainty.
        always: Whether to refine radial coefficients that are not significant, too.

    Returns:
        Whether each distortion coefficient of each camera is refined. (K, 6).
    """
    free = np.tile(RADIAL, (len(state.focal), 1))
    if not always:
        free &= find_significant(state, adjustment, _columns(free), options)[:, None]
    free, exceeds_prior = _refine_terms(state, adjustment, options, free)
    adjustment = replace(adjustment, refine_extra_params=free)
    is_strong = exceeds_prior | _bends_strongly(state, options.min_fisheye_distortion)
    for camera in np.flatnonzero(is_strong & ~state.is_fisheye).tolist():
        free = _prefer_fisheye(state, adjustment, options, free, camera)
    adjustment = replace(adjustment, refine_extra_params=free)
    has_distortion = np.any(free, axis=1)
    added = np.where(state.is_fisheye[:, None], HIGHER_RADIAL, TANGENTIAL) & has_distortion[:, None]
    added &= find_significant(state, adjustment, _columns(added), options)[:, None]
    if added.any():
        extended, _ = _refine_terms(state, adjustment, options, free | added)
        is_extended = np.all(extended >= free, axis=1)
        free = np.where(is_extended[:, None], extended, free)
    return free


def _bends_strongly(state: SfmState, min_distortion: float) -> Mask:
    """Find perspective cameras whose distortion moves the corners of an image far.

    Args:
        state: State with refined intrinsics.
        min_distortion: Minimum displacement of the corners, as a fraction of their distance from the center.

    Returns:
        True for such cameras. (K,).
    """
    corner = np.stack([state.corner_radii, np.zeros(len(state.focal))], axis=1)
    moved = np.abs(distort(corner, state.distortion) - corner)[:, 0]
    return ~state.is_fisheye & (moved > min_distortion * corner[:, 0])


def _prefer_fisheye(
    state: SfmState,
    adjustment: BundleAdjustmentOptions,
    options: GlobalRefinementOptions,
    free: Mask,
    camera: int,
) -> Mask:
    """Replace the lens of a camera by a fisheye lens if this explains the observations better.

    Both lenses have the two coefficients k1 and k2, so that their costs can be compared.

    Args:
        state: State with refined intrinsics; changed in place.
        adjustment: Options of the last bundle adjustment.
        options: Limits of uncertainty.
        free: Whether each distortion coefficient of each camera is refined. (K, 6).
        camera: Index of a camera with a perspective lens.

    Returns:
        Whether each distortion coefficient of each camera is refined now. (K, 6).
    """
    candidates = free.copy()
    candidates[camera] = RADIAL
    start = state.snapshot()
    perspective = state.bundle_adjust(adjustment)
    refined = state.snapshot()
    state.restore(start)
    make_fisheye(state, camera)
    kept, _ = _refine_terms(state, adjustment, options, candidates)
    fisheye = state.bundle_adjust(replace(adjustment, refine_extra_params=kept, max_iterations=0))
    is_better = perspective is not None and fisheye is not None and fisheye.cost < perspective.cost
    if is_better and kept[camera].any():
        return kept
    state.restore(refined)
    return free


def make_fisheye(state: SfmState, camera: int) -> None:
    """Replace a perspective lens by the most similar fisheye lens, with the same focal length.

    Args:
        state: State with poses and points; changed in place.
        camera: Index of the camera.
    """
    plane = np.stack([np.linspace(0, state.corner_radii[camera], 50)[1:], np.zeros(49)], axis=1)
    rays = unproject(plane, 1.0, LensModel(state.distortion[camera]))
    angles = equidistant(rays)
    system = distortion_term_jacobian(angles)[:, 0, RADIAL]
    solution = np.linalg.lstsq(system, (plane - angles)[:, 0], rcond=None)[0]
    state.distortion, state.is_fisheye = state.distortion.copy(), state.is_fisheye.copy()
    state.distortion[camera] = 0.0
    state.distortion[camera, RADIAL] = solution
    state.is_fisheye[camera] = True


def find_significant(
    state: SfmState, adjustment: BundleAdjustmentOptions, tested: Mask, options: GlobalRefinementOptions
) -> Mask:
    """Test whether fixed intrinsics of each camera differ significantly from their current values.

    Args:
        state: State after bundle adjustment with `adjustment`; not changed.
        adjustment: Options of the last bundle adjustment.
        tested: Whether each of the intrinsics of `BundleProblem` is tested. (K, 9).
        options: Largest probability of a significant deviation.

    Returns:
        True for cameras whose tested intrinsics are significant. (K,).
    """
    if not tested.any():
        return np.zeros(len(tested), bool)
    result = state.snapshot().bundle_adjust(replace(adjustment, max_iterations=0))
    if result is None:
        return np.zeros(len(tested), bool)
    mask = torch.as_tensor(tested, device=result.problem.intrinsics.device)
    probabilities = score_probabilities(result.problem, result.noise, mask).numpy()
    return probabilities < options.max_lens_term_probability


def _columns(terms: Mask) -> Mask:
    """Convert a mask of distortion coefficients (K, 6) to one of all intrinsics of `BundleProblem` (K, 9)."""
    return np.concatenate([np.zeros((len(terms), 3), bool), terms], axis=1)


def _refine_terms(
    state: SfmState, adjustment: BundleAdjustmentOptions, options: GlobalRefinementOptions, free: Mask
) -> tuple[Mask, Mask]:
    """Bundle-adjust with free distortion coefficients, except those of cameras that do not determine them.

    Args:
        state: State with poses and points; changed in place.
        adjustment: Options of bundle adjustment.
        options: Limits of uncertainty, and of the deviation from the prior.
        free: Whether each coefficient is refined, if the images determine it. (K, 6).

    Returns:
        Whether each coefficient was refined (K, 6), and whether the images of each camera determine
        coefficients that are too large for its prior and were therefore not refined (K,).
    """
    exceeds_prior = np.zeros(len(free), bool)

    def is_determined(deviation: Array) -> Mask:
        sigma = state.distortion_sigma
        near = np.all(~free | (np.abs(state.distortion) < options.max_prior_sigmas * sigma), axis=1)
        certain = np.all(~free | (deviation[:, 3:] < options.max_uncertainty_ratio * sigma), axis=1)
        exceeds_prior[certain & ~near] = True
        return near & certain

    def bundle_adjust(cameras: Mask) -> BundleResult | None:
        return state.bundle_adjust(replace(adjustment, refine_extra_params=free & cameras[:, None]))

    has_terms = np.asarray(np.any(free, axis=1))
    refined = refine_where_determined(state, has_terms, bundle_adjust, is_determined)
    return free & refined[:, None], exceeds_prior & ~refined


def refine_where_determined(
    state: SfmState,
    free: Mask,
    bundle_adjust: Callable[[Mask], BundleResult | None],
    is_determined: Callable[[Array], Mask],
) -> Mask:
    """Bundle-adjust with additional free intrinsics, excluding cameras whose images do not determine them.

    Each time cameras are excluded, the state is restored, and the bundle adjustment is repeated with the
    remaining cameras.

    Args:
        state: State with poses and points; changed in place.
        free: Whether the additional intrinsics of each camera may be refined. (K,).
        bundle_adjust: Function that takes a mask of cameras (K,) and bundle-adjusts the state; the additional
            intrinsics of the cameras in the mask are free.
        is_determined: Function that takes the standard deviations of all intrinsics (K, 9) and returns
            whether the images determine the additional intrinsics of each camera (K,).

    Returns:
        Whether the additional intrinsics of each camera were refined. (K,).
    """
    while free.any():
        before = state.snapshot()
        result = bundle_adjust(free)
        covariance = None if result is None else intrinsics_covariance(result.problem)
        if result is None or covariance is None:
            kept = np.zeros_like(free)
        else:
            deviation = result.noise * covariance.diagonal().cpu().numpy() ** 0.5
            kept = free & is_determined(deviation.reshape(len(free), -1))
        if (kept == free).all():
            break
        state.restore(before)
        free = kept
    return free
