"""Test of whether other focal lengths explain the observations nearly as well as the refined focal length.

The covariance of bundle adjustment assumes that the camera model and all observations are correct. For narrow
fields of view and flat scenes, the cost has a long valley along which focal length and depth compensate each
other (Belhumeur et al., "The Bas-Relief Ambiguity", 1999). There, a slightly wrong camera model changes the
focal length much more than the covariance predicts. Bundle adjustment at other fixed focal lengths shows how
flat the valley is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nope_splat.geometry.rigid import transform
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.global_refinement import refine_globally
from nope_splat.sfm.mapper_options import MapperOptions
from nope_splat.sfm.problem import SfmProblem
from nope_splat.sfm.reliability.options import FocalProfileOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices, Mask


@dataclass(frozen=True)
class FocalProfile:
    """Observation noise at a longer and at a shorter focal length, relative to the refined focal length.

    Both ratios are infinite if the focal length is fixed or if there are too few observations.
    """

    longer: float
    """Noise at the longer focal length, divided by the noise at the refined focal length."""
    shorter: float
    """Noise at the shorter focal length, divided by the noise at the refined focal length."""

    @property
    def noise_ratio(self) -> float:
        """Smaller of `longer` and `shorter`; below one if another focal length fits better."""
        return min(self.longer, self.shorter)


def focal_profile(state: SfmState, options: FocalProfileOptions, device: str) -> FocalProfile:
    """Compare the observation noise at a longer, a shorter and the refined focal length.

    Poses and points are bundle-adjusted at each focal length. If both ratios are clearly larger than
    `FocalProfileOptions.min_clear_ratio`, bundle adjustment ends early and the ratios are not exact.

    Args:
        state: The refined state; not changed.
        options: Ratio of the compared focal lengths, and limits of the bundle adjustments.
        device: PyTorch device for bundle adjustment.

    Returns:
        The noise ratios; infinite if the focal length is fixed or if there are too few observations.
    """
    if state.fix_focal:
        return FocalProfile(np.inf, np.inf)
    rows = sample_observations(state, options.max_num_observations)
    exact = BundleAdjustmentOptions(
        refine_focal_length=False, max_iterations=options.max_iterations, device=device
    )

    def minimal_cost(at: SfmState, adjustment: BundleAdjustmentOptions) -> float:
        result = at.bundle_adjust(adjustment, rows)
        return np.inf if result is None else result.cost

    # The poses are not adjusted to the sample, so this cost is an upper bound of the reference.
    refined = state.snapshot()
    reference = minimal_cost(refined, replace(exact, max_iterations=0))
    if not np.isfinite(reference):
        return FocalProfile(np.inf, np.inf)
    clear_factor = options.min_clear_ratio**2
    coarse = replace(exact, tolerance=options.coarse_tolerance, clear_cost=clear_factor * reference)
    zoomed = [dolly_zoom(state, factor) for factor in (options.focal_factor, 1 / options.focal_factor)]
    costs = np.array([minimal_cost(at, coarse) for at in zoomed])
    if costs.min() < clear_factor * reference:
        reference = minimal_cost(refined, exact)
        for index in np.flatnonzero(costs < clear_factor * reference).tolist():
            costs[index] = minimal_cost(zoomed[index], exact)
    return FocalProfile(*np.sqrt(costs / reference).tolist())


def follow_focal_valley(state: SfmState, options: MapperOptions, keep_poses: bool = False) -> FocalProfile:
    """Repeat the refinement from a longer or shorter focal length while this decreases the noise.

    Bundle adjustment stops early where focal length and depth nearly compensate each other, as for long
    lenses.

    Args:
        state: The refined state; changed in place.
        options: Options of triangulation, bundle adjustment and the focal profile.
        keep_poses: Whether to keep the state unchanged and only compute the profile; for known poses.

    Returns:
        The profile at the final focal length.
    """
    valley = options.reliability.focal_profile
    profile = focal_profile(state, valley, options.ba_device)
    for _ in range(valley.max_num_steps):
        if keep_poses or profile.noise_ratio > 1 - valley.min_noise_decrease:
            break
        factor = valley.focal_factor if profile.longer < profile.shorter else 1 / valley.focal_factor
        before, registered = state.snapshot(), state.registered.copy()
        state.restore(dolly_zoom(state, factor))
        refine_globally(state, options)
        is_back = np.abs(np.log(state.focal / before.focal)).min() < np.log(valley.focal_factor) / 2
        if is_back or (state.registered != registered).any():
            state.restore(before)
            break
        profile = focal_profile(state, valley, options.ba_device)
    return profile


def prefer_exif_focals(state: SfmState, profile: FocalProfile, problem: SfmProblem) -> None:
    """Move focal lengths toward the EXIF data and fix them, if the images hardly determine the focal lengths.

    Bundle adjustment assumes that the errors of all observations are independent. Errors caused by the camera
    model are not independent, and can displace an almost undetermined focal length by much more than the
    covariance predicts. The standard deviation sigma of log f is therefore taken from the profile: at f
    exp(sigma), the noise is larger than at f by the factor at which a focal length counts as determined. The
    logarithms of the refined focal length f and of the focal length from EXIF data are averaged with weights
    1 / sigma^2.

    Args:
        state: The refined state; changed in place.
        profile: The profile at the refined focal length.
        problem: Options, and focal lengths of the EXIF data.
    """
    options = problem.options.reliability.focal_profile
    max_increase = options.min_ratio(problem.is_planar) - 1
    increase = max(profile.noise_ratio - 1, 0.0)
    is_stated = np.isfinite(problem.exif_focals) & np.isin(
        np.arange(len(state.focal)), state.camera_ids[state.registered]
    )
    if increase >= max_increase or not is_stated.any():
        return
    precision = increase / max_increase / np.log(options.focal_factor) ** 2
    exif_precision = problem.options.intrinsics_prior.exif_log_focal_sigma**-2
    differences = np.log(problem.exif_focals[is_stated] / state.focal[is_stated])
    shift = np.median(differences) * exif_precision / (exif_precision + precision)
    state.restore(dolly_zoom(state, float(np.exp(shift))))
    state.fix_focal = True
    refine_globally(state, problem.options)


def dolly_zoom(state: SfmState, factor: float) -> SfmState:
    """Multiply the focal lengths, and move the cameras forward or back so that the images change little.

    Args:
        state: State with poses and points; not changed.
        factor: Factor by which the focal lengths are multiplied.

    Returns:
        A changed copy of the state.
    """
    zoomed = replace(state.snapshot(), focal=factor * state.focal)
    powers = np.array([2, 4, 6, 8, 1, 1])  # the displacements of pixels stay the same
    zoomed.distortion = state.distortion * float(factor) ** powers
    rows = np.flatnonzero(state.inlier)
    depths = transform(state.T_camera_world[state.image_ids[rows]], state.points[state.track_ids[rows]])[:, 2]
    for image_id in np.unique(state.image_ids[rows]):
        depth = np.median(depths[state.image_ids[rows] == image_id])
        zoomed.T_camera_world[image_id, 2, 3] += (factor - 1) * depth
    return zoomed


def sample_observations(state: SfmState, max_num_observations: int) -> Mask:
    """Select the observations of the longest tracks.

    Args:
        state: State with points.
        max_num_observations: Maximum average number of observations per registered image.

    Returns:
        Mask of all O observations, True for the selected ones, which are all inliers. (O,).
    """
    length = np.bincount(state.track_ids[state.inlier], minlength=len(state.points))
    rng = np.random.default_rng(0)
    order: Indices = np.lexsort((rng.random(len(length)), -length))
    total = np.cumsum(length[order])
    chosen = np.zeros(len(length), bool)
    chosen[order[total <= max_num_observations * state.registered.sum()]] = True
    return state.inlier & chosen[state.track_ids]
