"""Profile of the focal length: which other focal lengths explain the observations nearly as well?

The covariance of bundle adjustment takes the model and all observations for right. Narrow fields of view and
flat scenes have a long valley in which focal length and depth compensate each other (Belhumeur et al., "The
Bas-Relief Ambiguity", 1999). A slightly wrong model moves the minimum along it by far more than the
covariance predicts. Adjusting again from other focal lengths shows how long the valley is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Gt

from nope_splat.geometry.rigid import transform
from nope_splat.sfm.bundle_adjustment.options import BundleAdjustmentOptions
from nope_splat.sfm.state import SfmState
from nope_splat.utils.ranges import COUNT
from nope_splat.utils.typing import Indices, Mask


@dataclass(frozen=True)
class FocalProfileOptions:
    """Options of the profile of the focal length."""

    factor: Annotated[float, Gt(1)] = 2.0
    """The focal length is adjusted again from this multiple and from its inverse."""
    max_num_observations: Annotated[int, COUNT] = 100
    """Largest number of observations per photo that are used."""
    max_iterations: Annotated[int, COUNT] = 25
    """Largest number of steps of each adjustment."""


def refit_noise_ratio(state: SfmState, factor: float, options: FocalProfileOptions, device: str) -> float:
    """Adjust poses and points with all focal lengths multiplied by a factor.

    Args:
        state: The refined state; not changed.
        factor: Factor on the focal lengths.
        options: Options of the profile.
        device: Torch device.

    Returns:
        Ratio of the noise of the observations to that with the refined focal lengths.
    """
    rows = sample_observations(state, options.max_num_observations)
    adjustment = BundleAdjustmentOptions(
        refine_focal_length=False, max_iterations=options.max_iterations, device=device
    )
    costs = []
    for multiple in (1.0, factor):
        trial = dolly_zoom(state, multiple)
        result = trial.bundle_adjust(adjustment, rows)
        if result is None:
            return float("nan")
        costs.append(result.cost)
    return float(np.sqrt(costs[1] / costs[0]))


def dolly_zoom(state: SfmState, factor: float) -> SfmState:
    """Multiply the focal lengths, and move the cameras back so that the images change little.

    Args:
        state: State with poses and points; not changed.
        factor: Factor on the focal lengths.

    Returns:
        The changed state.
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
    """Sample the observations of the longest tracks.

    Args:
        state: State with points.
        max_num_observations: Average number of observations per image.

    Returns:
        Mask of the sampled inlier observations. (O,).
    """
    length = np.bincount(state.track_ids[state.inlier], minlength=len(state.points))
    rng = np.random.default_rng(0)
    order: Indices = np.lexsort((rng.random(len(length)), -length))
    total = np.cumsum(length[order])
    chosen = np.zeros(len(length), bool)
    chosen[order[total <= max_num_observations * state.registered.sum()]] = True
    return state.inlier & chosen[state.track_ids]
