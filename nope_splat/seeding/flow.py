"""Inverse depth maps from optical flow to source views.

Direct optical flow between wide-baseline images fails at most pixels. Therefore the source view is first
warped into the image by the inverse depth interpolated between track points. Then DIS flow (Kroeger et al.
2016) has to estimate only the small residual motion.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.projection import MIN_DEPTH, perspective, project
from nope_splat.seeding.fusion import InverseDepthMap
from nope_splat.seeding.settings import FlowConfig
from nope_splat.seeding.view import (
    Float32Array,
    SeedingView,
    epipolar_lines,
    pixel_centers,
    sample_bilinear,
)


def match_by_flow(view: SeedingView, source: SeedingView, inverse_depth: Float32Array) -> Float32Array:
    """Find, for every pixel of a view, the corresponding position in a source view.

    The interpolated inverse depth predicts the position, and optical flow corrects the prediction.

    Args:
        view: View whose pixels are matched.
        source: Source view in which to find the corresponding positions.
        inverse_depth: Approximate inverse depth of `view`, in inverse world units. (H, W).

    Returns:
        Pixel coordinates (x, y) in `source` of each pixel of `view`. (H, W, 2).
    """
    xy = pixel_centers(view.shape)
    base, step = epipolar_lines(view, source, xy)
    in_source = base + inverse_depth[..., None] * step
    predicted = project(in_source, source.focal, min_depth=1e-3) + source.principal_point
    predicted = predicted.astype(np.float32)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    warped = sample_bilinear(_gray(source), predicted)
    residual = flow.calc(_gray(view), warped, np.zeros_like(predicted))
    return sample_bilinear(predicted, xy + residual)


def _gray(view: SeedingView) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY), np.uint8)


def triangulate_flow(
    view: SeedingView,
    source: SeedingView,
    forward: Float32Array,
    backward: Float32Array,
    min_tri_angle: float,
    config: FlowConfig,
) -> tuple[Float32Array, Float32Array]:
    """Triangulate the inverse depth of every pixel from its correspondence in a source view.

    The scene point of a pixel at inverse depth s has the homogeneous coordinates `A + s b` in the source
    camera, with A and b from `epipolar_lines`. Let (x, y) be the correspondence of the pixel in the source
    view, on the plane at depth one of the source camera. Then `A_x + s b_x = x (A_z + s b_z)` and `A_y + s
    b_y = y (A_z + s b_z)`. These two linear equations are solved for s by least squares.

    Args:
        view: View of the pixels.
        source: Source view.
        forward: Pixel coordinates in `source` that correspond to the pixels of `view`. (H, W, 2).
        backward: Pixel coordinates in `view` that correspond to the pixels of `source`. (H', W', 2).
        min_tri_angle: Minimum triangulation angle in degrees.
        config: Maximum forward-backward and reprojection errors.

    Returns:
        Inverse depth in inverse world units (H, W), and weight (H, W). The weight is the square of the
        triangulation angle in degrees. Both are zero at pixels where one of the following holds:

        - the forward-backward error or the reprojection error in the source view is too large;
        - the triangulation angle is too small;
        - the inverse depth is at most 0.001, or the depth in the source view is below the near plane;
        - the correspondence is masked in the source view.
    """
    xy = pixel_centers(view.shape)
    cycled = sample_bilinear(backward, forward, outside=-1e4)
    squared_cycle_error = ((cycled - xy) ** 2).sum(-1)

    base, step = epipolar_lines(view, source, xy)
    plane = (forward - source.principal_point.astype(np.float32)) / np.float32(source.focal)
    offset = base[..., :2] - plane * base[..., 2:]
    slope = step[:2] - plane * step[2]
    inverse_depth = -(offset * slope).sum(-1) / np.maximum((slope**2).sum(-1), 1e-12)

    in_source = base + inverse_depth[..., None] * step
    depth = in_source[..., 2]
    reprojected = perspective(in_source, min_depth=MIN_DEPTH)
    epipolar_error = source.focal * np.linalg.norm(reprojected - plane, axis=-1)
    cosine = (base * in_source).sum(-1) / np.maximum(
        np.linalg.norm(base, axis=-1) * np.linalg.norm(in_source, axis=-1), 1e-12
    )
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    valid = squared_cycle_error < config.max_cycle_error**2
    valid &= (epipolar_error < config.max_reprojection_error) & (angle > min_tri_angle)
    valid &= (inverse_depth > 1e-3) & (depth > source.near_plane)
    valid &= sample_bilinear(source.mask.astype(np.uint8), forward, outside=0) > 0
    inverse_depth, weight = np.where(valid, inverse_depth, 0), np.where(valid, angle**2, 0)
    return inverse_depth.astype(np.float32), weight.astype(np.float32)


def merge_estimates(
    inverse_depths: Float32Array, weights: Float32Array, max_relative_difference: float
) -> InverseDepthMap:
    """Merge the inverse depths from several source views by averaging consistent estimates.

    At each pixel, the group of an estimate consists of all estimates that are consistent with this estimate.
    The largest group is averaged, and estimates outside this group are ignored. Among groups of equal size,
    the group with the largest total weight is averaged.

    Args:
        inverse_depths: Inverse depth from each of K source views, in inverse world units. (K, H, W).
        weights: Weight of each estimate, zero for pixels without an estimate. (K, H, W).
        max_relative_difference: Two estimates are consistent if they differ by less than this fraction.

    Returns:
        The weighted mean of the averaged group, and the size of this group, at each pixel; both are zero
        where there is no estimate.
    """
    shape = inverse_depths.shape[1:]
    best, best_weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    best_count = np.zeros(shape, np.int64)
    valid = weights > 0
    for candidate, present in zip(inverse_depths, valid, strict=True):
        near = valid & present & (np.abs(inverse_depths - candidate) < max_relative_difference * candidate)
        count, weight = near.sum(0), (near * weights).sum(0)
        mean = (near * weights * inverse_depths).sum(0) / np.maximum(weight, 1e-9)
        better = (count > best_count) | ((count == best_count) & (weight > best_weight))
        best = np.where(better, mean, best)
        best_weight = np.where(better, weight, best_weight)
        best_count = np.where(better, count, best_count)
    return InverseDepthMap(best, best_count)
