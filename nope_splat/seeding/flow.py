"""Dense inverse depth of an image from optical flow to its partners.

Flow straight between wide-baseline images fails on most pixels. Here the partner is first warped
into the image by the depth interpolated from the tracks; DIS flow (Kroeger et al. 2016) then only
has to find the small residual.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.projection import MIN_DEPTH, perspective, project
from nope_splat.seeding.view import NEAREST_DEPTH, Map, View, pixel_centers, rays_in_other_view, sample

_MAX_CYCLE_ERROR = 1.0
"""Pixels between a point and itself after the flow there and back."""
_MAX_EPIPOLAR_ERROR = 1.5
"""Pixels between the flow's target and the epipolar line."""
_AGREEMENT = 0.015
"""Relative difference of inverse depth up to which two partners say the same."""


def correspondences(view: View, partner: View, inverse_depth: NDArray[np.float32]) -> Map:
    """Where every pixel of a view lies in a partner: predicted by depth, corrected by optical flow.

    Args:
        view: The image.
        partner: The image to search.
        inverse_depth: Rough inverse depth of `view`. (H, W).

    Returns:
        Pixel coordinates in `partner`. (H, W, 2).
    """
    xy = pixel_centers(view.shape)
    base, step = rays_in_other_view(view, partner, xy)
    there = base + inverse_depth[..., None] * step
    predicted = project(there, partner.focal, min_depth=1e-3) + partner.principal_point
    predicted = predicted.astype(np.float32)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    residual = flow.calc(_gray(view), sample(_gray(partner), predicted), np.zeros_like(predicted))
    return sample(predicted, xy + residual)


def _gray(view: View) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY), np.uint8)


def triangulate(
    view: View, partner: View, forward: Map, backward: Map, min_angle: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inverse depth of every pixel from its correspondence, and how far to trust it.

    With the pixel's point at `A + s b` in the partner, the target (x, y) on the partner's image plane
    asks `A_x + s b_x = x (A_z + s b_z)`, and the same in y: two linear equations for s, solved by least
    squares.

    Args:
        view: The image.
        partner: The partner.
        forward: Correspondences from `view` to `partner`. (H, W, 2).
        backward: Correspondences from `partner` to `view`. (H', W', 2).
        min_angle: Smallest useful angle between the two rays, in degrees.

    Returns:
        Inverse depth (H, W), and a weight (H, W): the squared angle between the rays in degrees, or zero
        where the flow does not return to its start, leaves the epipolar line or has too little parallax, and
        where it ends in a part of the partner that is not used.
    """
    xy = pixel_centers(view.shape)
    returned = sample(backward, forward, outside=-1e4)
    cycle = ((returned - xy) ** 2).sum(-1)

    base, step = rays_in_other_view(view, partner, xy)
    plane = (forward - partner.principal_point.astype(np.float32)) / np.float32(partner.focal)
    offset = base[..., :2] - plane * base[..., 2:]
    slope = step[:2] - plane * step[2]
    inverse_depth = -(offset * slope).sum(-1) / np.maximum((slope**2).sum(-1), 1e-12)

    there = base + inverse_depth[..., None] * step
    depth = there[..., 2]
    epipolar = partner.focal * np.linalg.norm(perspective(there, min_depth=MIN_DEPTH) - plane, axis=-1)
    cosine = (base * there).sum(-1) / np.maximum(
        np.linalg.norm(base, axis=-1) * np.linalg.norm(there, axis=-1), 1e-12
    )
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    good = (cycle < _MAX_CYCLE_ERROR**2) & (epipolar < _MAX_EPIPOLAR_ERROR) & (angle > min_angle)
    good &= (inverse_depth > 1e-3) & (depth > NEAREST_DEPTH)
    good &= sample(partner.used.astype(np.uint8), forward, outside=0) > 0
    return np.where(good, inverse_depth, 0).astype(np.float32), np.where(good, angle**2, 0).astype(np.float32)


def agree(
    inverse_depths: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Join the partners' estimates: the largest group that agrees, averaged by weight.

    Args:
        inverse_depths: One map per partner. (K, H, W).
        weights: Their weights; zero where there is no estimate. (K, H, W).

    Returns:
        Inverse depth (H, W) and the number of partners in the group (H, W).
    """
    shape = inverse_depths.shape[1:]
    best, best_weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    best_count = np.zeros(shape, np.int64)
    valid = weights > 0
    for candidate, present in zip(inverse_depths, valid, strict=True):
        near = valid & present & (np.abs(inverse_depths - candidate) < _AGREEMENT * candidate)
        count, weight = near.sum(0), (near * weights).sum(0)
        mean = (near * weights * inverse_depths).sum(0) / np.maximum(weight, 1e-9)
        better = (count > best_count) | ((count == best_count) & (weight > best_weight))
        best = np.where(better, mean, best)
        best_weight = np.where(better, weight, best_weight)
        best_count = np.where(better, count, best_count)
    return best, best_count
