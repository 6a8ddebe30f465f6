"""Final global refinement: triangulation, bundle adjustment with free intrinsics, and filtering."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.bundle_adjustment.solver import BundleResult
from nope_splat.sfm.lens_models import find_significant, refine_lens_models, refine_where_determined
from nope_splat.sfm.mapper_options import GlobalRefinementOptions, MapperOptions
from nope_splat.sfm.quarter_turns import find_quarter_turns
from nope_splat.sfm.shared_lens import find_shared_lenses
from nope_splat.sfm.state import SfmState
from nope_splat.sfm.triangulation import complete_tracks, filter_observations, triangulate
from nope_splat.utils.typing import Array, Mask

PRINCIPAL_POINT = np.array([False, True, True, *6 * [False]])
"""Principal point among the intrinsics of `BundleProblem`. (9,)."""


def refine_globally(state: SfmState, options: MapperOptions) -> dict[int, str]:
    """Refine all poses, points and intrinsics in rounds of triangulation, bundle adjustment and filtering.

    The maximum reprojection error decreases from round to round. Principal points and radial distortion are
    refined from the first round on, if the options allow it and the images determine them.

    Args:
        state: State with poses; changed in place.
        options: Options of triangulation, bundle adjustment and refinement.

    Returns:
        Reasons why images were unregistered, by image index.
    """
    failures: dict[int, str] = {}
    min_angle, refinement = options.min_tri_angle, options.refinement
    state.lens_ids = np.arange(len(state.focal))  # an earlier refinement may have coupled cameras
    adjustment = BundleAdjustmentOptions(tolerance=refinement.ba_tolerance, device=options.ba_device)
    for number, max_error in enumerate(refinement.filter_max_reproj_errors):
        triangulate(state, max_error, min_angle)
        complete_tracks(state, max_error)
        state.bundle_adjust(adjustment)
        state.estimate_noise()
        if number == 0 and options.refine_principal_point:
            find_quarter_turns(state, adjustment)
            free = _refine_principal_point(state, adjustment, refinement, np.ones(len(state.focal), bool))
            adjustment = replace(adjustment, refine_principal_point=free)
        if number == 0 and options.refine_extra_params is not False:
            always = options.refine_extra_params is True
            free = refine_lens_models(state, adjustment, refinement, always)
            adjustment = replace(adjustment, refine_extra_params=free)
            # With a wrong lens, the principal point may seem implausible or uncertain.
            centered = free.any(axis=1) & ~np.asarray(adjustment.refine_principal_point)
            tested = centered[:, None] & PRINCIPAL_POINT
            if options.refine_principal_point and centered.any():
                centered &= find_significant(state, adjustment, tested, refinement)
                free = _refine_principal_point(state, adjustment, refinement, centered)
                adjustment = replace(adjustment, refine_principal_point=free)
        filter_observations(state, max_error, min_angle)
        failures |= _filter_images(state, options)
        state.rescale()
    final = replace(adjustment, tolerance=BundleAdjustmentOptions.tolerance)
    state.bundle_adjust(final)
    state.lens_ids = find_shared_lenses(state, adjustment, refinement.min_same_lens_probability)
    if len(np.unique(state.lens_ids)) < len(state.lens_ids):
        state.bundle_adjust(final)
    filter_observations(state, refinement.filter_max_reproj_errors[-1], min_angle)
    return failures | _filter_images(state, options)


def _refine_principal_point(
    state: SfmState, adjustment: BundleAdjustmentOptions, options: GlobalRefinementOptions, added: Mask
) -> Mask:
    """Refine the principal points of more cameras, where their images determine them.

    Args:
        state: State with poses and points; changed in place.
        adjustment: Options of bundle adjustment so far.
        options: Limits of uncertainty, and of the deviation from the prior.
        added: Whether to try each camera. (K,).

    Returns:
        Whether each camera's principal point is refined now. (K,).
    """
    sigma = state.offset_sigma
    before = np.broadcast_to(adjustment.refine_principal_point, added.shape)

    def is_determined(deviation: Array) -> Mask:
        near = np.linalg.norm(state.offset, axis=1) < options.max_prior_sigmas * sigma
        return near & (deviation[:, 1:3].max(1) < options.max_uncertainty_ratio * sigma)

    def bundle_adjust(free: Mask) -> BundleResult | None:
        return state.bundle_adjust(replace(adjustment, refine_principal_point=free | before))

    return before | refine_where_determined(state, added, bundle_adjust, is_determined)


def _filter_images(state: SfmState, options: MapperOptions) -> dict[int, str]:
    """Unregister images with too few observations; return the reason for each, by image index."""
    support = np.bincount(state.image_ids[state.inlier], minlength=len(state.registered))
    weak = np.flatnonzero(state.registered & (support < options.refinement.min_num_observations))
    if len(weak):
        state.registered[weak] = False
        state.inlier &= state.registered[state.image_ids]
        filter_observations(state, np.inf, options.min_tri_angle)
    return {
        int(image_id): f"only {support[image_id]} observations of track points remain after bundle adjustment"
        for image_id in weak
    }
