"""Test of whether other focal lengths explain the observations nearly as well.

The covariance of bundle adjustment assumes that the camera model and all observations are correct. For narrow
fields of view and flat scenes, the cost has a long valley along which focal length and depth compensate each
other (Belhumeur et al., "The Bas-Relief Ambiguity", 1999). There, a slightly wrong camera model changes the
focal length much more than the covariance predicts. Bundle adjustment at other fixed focal lengths shows how
flat the valley is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nope_splat.geometry.rigid import transform
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.reliability.options import FocalProfileOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.typing import Indices, Mask


def focal_noise_ratio(state: SfmState, options: FocalProfileOptions, device: str) -> float:
    """Compare the observation noise at a longer and a shorter focal length with that at the refined one.

    Poses and points are bundle-adjusted at each focal length.

    Args:
        state: The refined state; not changed.
        options: Factor on the focal length, and limits of the bundle adjustments.
        device: PyTorch device for bundle adjustment.

    Returns:
        The smaller noise of the longer and the shorter focal length, divided by the noise at the refined
        focal length; infinite if there are too few observations.
    """
    rows = sample_observations(state, options.max_num_observations)
    costs = []
    for factor in (1.0, options.factor, 1 / options.factor):
        adjustment = BundleAdjustmentOptions(
            refine_focal_length=False, max_iterations=options.max_iterations, device=device
        )
        result = dolly_zoom(state, factor).bundle_adjust(adjustment, rows)
        if result is None:
            return float("inf")
        costs.append(result.cost)
    return float(np.sqrt(min(costs[1:]) / costs[0]))


def dolly_zoom(state: SfmState, factor: float) -> SfmState:
    """Multiply the focal lengths, and move the cameras back so that the images change little.

    Args:
        state: State with poses and points; not changed.
        factor: Factor on the focal lengths.

    Returns:
        A changed copy of the state.
    """
    zoomed = replace(state.snapshot(), focal=factor * state.focal)
    zoomed.radial = state.radial * np.array([factor**2, factor**4])
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
        True for the selected inlier observations. (O,).
    """
    length = np.bincount(state.track_ids[state.inlier], minlength=len(state.points))
    rng = np.random.default_rng(0)
    order: Indices = np.lexsort((rng.random(len(length)), -length))
    total = np.cumsum(length[order])
    chosen = np.zeros(len(length), bool)
    chosen[order[total <= max_num_observations * state.registered.sum()]] = True
    return state.inlier & chosen[state.track_ids]
