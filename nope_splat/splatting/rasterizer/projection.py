"""Projection of 3D Gaussians to 2D splats, and its gradient (EWA splatting, Zwicker et al. 2001).

A Gaussian with mean mu, rotation R(q) and scales s has covariance R S S R^T. A camera with world-to-camera
transform [V | t] and intrinsics fx, fy, cx, cy projects it, to first order, to a 2D Gaussian:

    (X, Y, Z) = V mu + t                     mean in camera coordinates, Z is the depth
    mean2d    = projection of (X, Y, Z)      pixels, see `pinhole` and `fisheye`
    J         = Jacobian of the projection at (X, Y, Z)     (2, 3)
    M         = J V R S                      (2, 3)
    cov       = M M^T                        covariance in the image
    blurred   = cov + eps2d I                every splat covers at least about a pixel
    conic     = inverse(blurred)             with entries (a, b, c) for [[a, b], [b, c]]
    rho       = sqrt(det cov / det blurred)  opacity compensation of the antialiased mode (Mip-Splatting)

V need not be a rotation: the equations and their gradient hold for any 3 x 3 matrix. `fold_intrinsics` relies
on this when it multiplies intrinsics into V. Inputs and results are float32. Camera coordinates are float32
for pinhole cameras; most other arithmetic is in float64, since projection is cheap.
"""

from __future__ import annotations

import math

import numpy as np

from nope_splat.splatting.rasterizer.covariance import covariance_2d, covariance_gradient, quaternion_gradient
from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.threads import CHUNK, claim
from nope_splat.splatting.rasterizer.vectors import (
    dot,
    elementwise_product,
    linear_combination,
    row_times_matrix,
    scale_vector,
    vector3,
)


@inlined
def has_nonfinite(values):
    """Check whether a flat float32 array contains a NaN or an infinity."""
    bad = 0
    for i in range(len(values)):  # unlike iteration over elements, this loop is vectorized
        bad += not abs(values[i]) < np.float32(np.inf)
    return bad > 0


@kernel
def project(
    counter, model, means, quats, scales, viewmat, K, width, height, eps2d, near, far, radius_clip, checked,
    radii, means2d, depths, conics, compensations, not_finite,
):  # fmt: skip
    """Project all Gaussians into one camera. Culled Gaussians get radius zero.

    `model` is a `CameraFunctions`; `rasterization` describes the other inputs. The outputs are radii (N,)
    int32, means2d (N, 2), depths (N,), conics (N, 3) and compensations (N,). The radius is three standard
    deviations along the longer axis, rounded up, as in gsplat. A Gaussian is culled if its depth is below
    `near` or above `far`, if its radius is at most `radius_clip`, or if the bounding square of the circle
    with this radius is outside the image.

    The kernel also checks the flat arrays in the tuple `checked` for NaN and infinity, because the projection
    leaves memory bandwidth unused. The kernel sets `not_finite` (arrays,) to True for each array that
    contains NaN or infinity.
    """
    camera = model.make_camera(viewmat, K, width, height)
    count = len(means)
    while True:
        start = claim(counter, CHUNK)
        if start >= max(count, 1):
            break
        for k in range(len(checked)):
            stride = -(-len(checked[k]) // max(count, 1))
            if has_nonfinite(checked[k][start * stride : (start + CHUNK) * stride]):
                not_finite[k] = True
        for i in range(start, min(start + CHUNK, count)):
            mean = vector3(means, i)
            radii[i] = 0
            means2d[i, 0] = means2d[i, 1] = 0.0
            conics[i, 0] = conics[i, 1] = conics[i, 2] = 0.0
            compensations[i] = 0.0
            depth = dot(camera.v2, mean) + camera.t[2]
            depths[i] = depth
            if not ((near <= depth) & (depth <= far) & (depth > 0.0)):
                continue
            splat = model.project_gaussian(camera, mean, quats, vector3(scales, i), i)
            xx, xy, yy, det = covariance_2d(splat.m0, splat.m1)
            blurred_det = det + eps2d * (xx + yy + eps2d)
            xx += eps2d
            yy += eps2d
            half_trace = 0.5 * (xx + yy)
            spread = np.float32(max(0.01, half_trace * half_trace - blurred_det))
            radius = np.ceil(3.0 * math.sqrt(np.float32(half_trace + math.sqrt(spread))))
            px, py = model.center(camera, splat)
            # Use one branch for all conditions, because branches on single conditions are hard to predict.
            inside = (
                (px + radius > 0.0) & (px - radius < width) & (py + radius > 0.0) & (py - radius < height)
            )
            if not (inside & (radius > radius_clip) & (blurred_det > 0.0)):
                continue
            radii[i] = np.int32(min(radius, 2.0**30))
            means2d[i, 0] = px
            means2d[i, 1] = py
            inverse_det = 1.0 / blurred_det
            conics[i, 0] = yy * inverse_det
            conics[i, 1] = -xy * inverse_det
            conics[i, 2] = xx * inverse_det
            compensations[i] = math.sqrt(np.float32(det * inverse_det))


@kernel
def project_gradient(
    counter, model, means, quats, scales, viewmat, K, width, height, eps2d, radii,
    d_means2d, d_depths, d_conics, d_compensations, gaussians_need_grad, accumulate,
    d_means, d_quats, d_scales, d_camera,
):  # fmt: skip
    """Compute the gradient of `project`.

    If `gaussians_need_grad` is True, the gradients of the Gaussians are written to d_means (N, 3), d_quats
    (N, 4) and d_scales (N, 3). With `accumulate`, they are added to these arrays instead. If the array
    d_depths or d_compensations is empty, its elements count as zero.

    The gradient of the camera is summed per chunk of Gaussians in d_camera (chunks, 16): first the upper
    three rows of the world-to-camera transform, then fx, fy, cx, cy. `camera_gradient` sums the chunks in
    order, so that the result does not depend on the number of threads.
    """
    camera = model.make_camera(viewmat, K, width, height)
    sums = np.empty(16)
    while True:
        start = claim(counter, CHUNK)
        if start >= len(means):
            break
        stop = min(start + CHUNK, len(means))
        if gaussians_need_grad and not accumulate:
            for output in (d_means, d_quats, d_scales):
                output[start:stop] = np.float32(0.0)
        sums[:] = 0.0
        for i in range(start, stop):
            if radii[i] == 0:
                continue
            mean, scale = vector3(means, i), vector3(scales, i)
            splat = model.project_gaussian(camera, mean, quats, scale, i)
            d_compensation = float(d_compensations[i]) if len(d_compensations) > 0 else 0.0
            d_xx, d_xy, d_yy = covariance_gradient(splat, eps2d, vector3(d_conics, i), d_compensation)
            # cov = M M^T, M = N S, N = J V R.
            d_m0 = linear_combination(2.0 * d_xx, splat.m0, d_xy, splat.m1)
            d_m1 = linear_combination(2.0 * d_yy, splat.m1, d_xy, splat.m0)
            d_n0, d_n1 = elementwise_product(d_m0, scale), elementwise_product(d_m1, scale)
            r0, r1, r2 = splat.r0, splat.r1, splat.r2
            d_jv0 = dot(d_n0, r0), dot(d_n0, r1), dot(d_n0, r2)
            d_jv1 = dot(d_n1, r0), dot(d_n1, r1), dot(d_n1, r2)
            factor0, e0, factor1, e1 = model.factored_rows(camera, splat)
            d_e0, d_e1 = scale_vector(factor0, d_n0), scale_vector(factor1, d_n1)
            if gaussians_need_grad:
                for k in range(3):
                    d_scales[i, k] += d_m0[k] * splat.n0[k] + d_m1[k] * splat.n1[k]
                d_quat = quaternion_gradient(
                    quats,
                    i,
                    linear_combination(e0[0], d_e0, e1[0], d_e1),
                    linear_combination(e0[1], d_e0, e1[1], d_e1),
                    linear_combination(e0[2], d_e0, e1[2], d_e1),
                )
                for k in range(4):
                    d_quats[i, k] += d_quat[k]
            d_px, d_py = float(d_means2d[i, 0]), float(d_means2d[i, 1])
            d_depth = float(d_depths[i]) if len(d_depths) > 0 else 0.0
            d_point, d_intrinsics = model.mean_gradient(camera, splat, d_px, d_py, d_depth, d_jv0, d_jv1)
            if gaussians_need_grad:
                d_mean = row_times_matrix(d_point, camera.v0, camera.v1, camera.v2)
                for k in range(3):
                    d_means[i, k] += d_mean[k]
            model.add_view_gradient(camera, splat, d_point, mean, d_jv0, d_jv1, sums)
            for k in range(3):
                sums[4 * k + 3] += d_point[k]
            for k in range(4):
                sums[12 + k] += d_intrinsics[k]
        d_camera[start // CHUNK] = sums


@kernel
def camera_gradient(d_camera, d_viewmat, d_K):
    """Sum the camera gradients of all chunks of Gaussians.

    `d_camera` (chunks, 16) is the output of `project_gradient`. Writes `d_viewmat` (4, 4) and `d_K` (3, 3).
    """
    d_viewmat[:], d_K[:] = 0.0, 0.0
    sums = np.zeros(16)
    for chunk in range(len(d_camera)):
        sums += d_camera[chunk]
    for row in range(3):
        for column in range(4):
            d_viewmat[row, column] = sums[4 * row + column]
    d_K[0, 0], d_K[1, 1], d_K[0, 2], d_K[1, 2] = sums[12], sums[13], sums[14], sums[15]
