"""Projection of 3D Gaussians to 2D splats, and its gradient (EWA splatting, Zwicker et al. 2001).

A Gaussian with mean mu, rotation R(q) and scales s has covariance R S S R^T. A camera with world-to-camera
transform [V | t] and intrinsics fx, fy, cx, cy projects it, to first order, to a 2D Gaussian:

    (X, Y, Z) = V mu + t                     mean in camera coordinates, Z is the depth
    mean2d    = (fx X/Z + cx, fy Y/Z + cy)   pixels
    J         = [[fx/Z, 0, -fx u/Z], [0, fy/Z, -fy v/Z]]    with (u, v) = (X/Z, Y/Z) clamped to the image
                                             plus a margin of 15 % of its size on each side, because the
                                             linearization is inaccurate far outside the image
    M         = J V R S                      (2, 3)
    cov       = M M^T                        covariance in the image
    blurred   = cov + eps2d I                every splat covers at least about a pixel
    conic     = inverse(blurred)             with entries (a, b, c) for [[a, b], [b, c]]
    rho       = sqrt(det cov / det blurred)  opacity compensation of the antialiased mode (Mip-Splatting)

V need not be a rotation: the equations and their gradient hold for any 3 x 3 matrix. `fold_intrinsics` relies
on this when it multiplies intrinsics into V. Arithmetic is in float64, since projection is cheap; results are
stored as float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nope_splat.splatting.rasterizer.kernels import inlined, kernel
from nope_splat.splatting.rasterizer.threads import CHUNK, claim

Vector3 = tuple[float, float, float]


class Camera(NamedTuple):
    """Pinhole camera for the projection of Gaussians.

    Attributes:
        v0: First row of the 3 x 3 part of the world-to-camera transform.
        v1: Second row.
        v2: Third row.
        t: Translation of the world-to-camera transform.
        fx: Focal length along x in pixels.
        fy: Focal length along y in pixels.
        cx: Principal point, x in pixels.
        cy: Principal point, y in pixels.
        u_min: Lower limit of X/Z in the Jacobian of the projection, for a mean at (X, Y, Z) in camera
            coordinates. Values outside the limits are clamped.
        u_max: Upper limit of X/Z in the Jacobian.
        v_min: Lower limit of Y/Z in the Jacobian.
        v_max: Upper limit of Y/Z in the Jacobian.
    """

    v0: Vector3
    v1: Vector3
    v2: Vector3
    t: Vector3
    fx: float
    fy: float
    cx: float
    cy: float
    u_min: float
    u_max: float
    v_min: float
    v_max: float


class Splat(NamedTuple):
    """Intermediate results of the projection of a Gaussian, whose mean has camera coordinates (X, Y, Z).

    Attributes:
        inverse_z: 1/Z.
        x_over_z: X/Z.
        y_over_z: Y/Z.
        u: X/Z, clamped to the limits of `Camera`.
        v: Y/Z, clamped to the limits of `Camera`.
        r0: First row of the Gaussian's rotation matrix R.
        r1: Second row of R.
        r2: Third row of R.
        n0: First row of N = J V R (2, 3), where J is the Jacobian of the projection at (u, v), and V the
            3 x 3 part of the world-to-camera transform.
        n1: Second row of N.
        m0: First row of M = N S (2, 3), where S is the diagonal matrix of the Gaussian's scales. The
            covariance in the image is M M^T.
        m1: Second row of M.
    """

    inverse_z: float
    x_over_z: float
    y_over_z: float
    u: float
    v: float
    r0: Vector3
    r1: Vector3
    r2: Vector3
    n0: Vector3
    n1: Vector3
    m0: Vector3
    m1: Vector3


@inlined
def vector3(array, index):
    """Return the first three elements of row `index` of an array (N, at least 3), as float64."""
    return float(array[index, 0]), float(array[index, 1]), float(array[index, 2])


@inlined
def dot(p, q):
    """Compute the dot product of two 3D vectors."""
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@inlined
def linear_combination(p, a, q, b):
    """Compute the linear combination p a + q b of two 3D vectors a and b."""
    return p * a[0] + q * b[0], p * a[1] + q * b[1], p * a[2] + q * b[2]


@inlined
def row_times_matrix(p, r0, r1, r2):
    """Multiply a row vector p (3) by the 3 x 3 matrix with rows r0, r1 and r2."""
    return (
        p[0] * r0[0] + p[1] * r1[0] + p[2] * r2[0],
        p[0] * r0[1] + p[1] * r1[1] + p[2] * r2[1],
        p[0] * r0[2] + p[1] * r1[2] + p[2] * r2[2],
    )


@inlined
def scale_vector(p, a):
    """Multiply a 3D vector a by a scalar p."""
    return p * a[0], p * a[1], p * a[2]


@inlined
def elementwise_product(p, s):
    """Multiply two 3D vectors elementwise."""
    return p[0] * s[0], p[1] * s[1], p[2] * s[2]


@inlined
def make_camera(viewmat, K, width, height):
    """Create a `Camera` from a view matrix (4, 4), an intrinsic matrix (3, 3) and an image size in pixels."""
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    margin_x, margin_y = 0.15 * width, 0.15 * height
    return Camera(
        vector3(viewmat, 0),
        vector3(viewmat, 1),
        vector3(viewmat, 2),
        (float(viewmat[0, 3]), float(viewmat[1, 3]), float(viewmat[2, 3])),
        fx,
        fy,
        cx,
        cy,
        (-margin_x - cx) / fx,
        (width + margin_x - cx) / fx,
        (-margin_y - cy) / fy,
        (height + margin_y - cy) / fy,
    )


@inlined
def quaternion(quats, index):
    """Return w, x, y and z of row `index` of `quats` (N, 4), and the inverse of the row's squared norm.

    The quaternions need not be normalized. The inverse is at most 1e24, also for a zero quaternion.
    """
    w, x, y, z = (
        float(quats[index, 0]),
        float(quats[index, 1]),
        float(quats[index, 2]),
        float(quats[index, 3]),
    )
    return w, x, y, z, 1.0 / max(w * w + x * x + y * y + z * z, 1e-24)


@inlined
def rotation(quats, index):
    """Compute the rotation matrix, as three rows, of the quaternion in row `index` of `quats` (N, 4).

    The quaternion need not be normalized. A zero quaternion gives the identity.
    """
    w, x, y, z, inverse = quaternion(quats, index)
    s = 2.0 * inverse
    return (
        (1.0 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)),
        (s * (x * y + w * z), 1.0 - s * (x * x + z * z), s * (y * z - w * x)),
        (s * (x * z - w * y), s * (y * z + w * x), 1.0 - s * (x * x + y * y)),
    )


@inlined
def project_gaussian(mean, quats, scale, index, camera):
    """Project a Gaussian, which must lie in front of the camera, to a `Splat`.

    `mean` and `scale` have three elements each; `index` is the row of the Gaussian in `quats` (N, 4).
    """
    x = dot(camera.v0, mean) + camera.t[0]
    y = dot(camera.v1, mean) + camera.t[1]
    z = dot(camera.v2, mean) + camera.t[2]
    inverse_z = 1.0 / z
    x_over_z, y_over_z = x * inverse_z, y * inverse_z
    u = min(max(x_over_z, camera.u_min), camera.u_max)
    v = min(max(y_over_z, camera.v_min), camera.v_max)
    r0, r1, r2 = rotation(quats, index)
    fx_over_z, fy_over_z = camera.fx * inverse_z, camera.fy * inverse_z
    n0 = row_times_matrix(linear_combination(fx_over_z, camera.v0, -fx_over_z * u, camera.v2), r0, r1, r2)
    n1 = row_times_matrix(linear_combination(fy_over_z, camera.v1, -fy_over_z * v, camera.v2), r0, r1, r2)
    return Splat(
        inverse_z,
        x_over_z,
        y_over_z,
        u,
        v,
        r0,
        r1,
        r2,
        n0,
        n1,
        elementwise_product(n0, scale),
        elementwise_product(n1, scale),
    )


@inlined
def covariance_2d(m0, m1):
    """Compute the entries xx, xy, yy and the determinant of the covariance M M^T.

    m0 and m1 are the rows of M (2, 3). The determinant is a sum of squares and therefore never negative.
    """
    minor0 = m0[1] * m1[2] - m0[2] * m1[1]
    minor1 = m0[2] * m1[0] - m0[0] * m1[2]
    minor2 = m0[0] * m1[1] - m0[1] * m1[0]
    return dot(m0, m0), dot(m0, m1), dot(m1, m1), minor0 * minor0 + minor1 * minor1 + minor2 * minor2


@inlined
def has_nonfinite(values):
    """Check whether a flat float32 array contains a NaN or an infinity."""
    bad = 0
    for i in range(len(values)):  # unlike iteration over elements, this loop is vectorized
        bad += not abs(values[i]) < np.float32(np.inf)
    return bad > 0


@kernel
def project(
    counter, means, quats, scales, viewmat, K, width, height, eps2d, near, far, radius_clip, checked,
    radii, means2d, depths, conics, compensations, not_finite,
):  # fmt: skip
    """Project all Gaussians into one camera. Culled Gaussians get radius zero.

    `rasterization` describes the inputs. The outputs are radii (N,) int32, means2d (N, 2), depths (N,),
    conics (N, 3) and compensations (N,). The radius is three standard deviations along the longer axis,
    rounded up, as in gsplat. A Gaussian is culled if its depth is below `near` or above `far`, if its radius
    is at most `radius_clip`, or if the bounding square of the circle with this radius is outside the image.

    The kernel also checks the flat arrays in the tuple `checked` for NaN and infinity, because the projection
    leaves memory bandwidth unused. The kernel sets `not_finite` (arrays,) to True for each array that
    contains NaN or infinity.
    """
    camera = make_camera(viewmat, K, width, height)
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
            splat = project_gaussian(mean, quats, vector3(scales, i), i, camera)
            xx, xy, yy, det = covariance_2d(splat.m0, splat.m1)
            blurred_det = det + eps2d * (xx + yy + eps2d)
            xx += eps2d
            yy += eps2d
            half_trace = 0.5 * (xx + yy)
            spread = np.float32(max(0.01, half_trace * half_trace - blurred_det))
            radius = np.ceil(3.0 * math.sqrt(np.float32(half_trace + math.sqrt(spread))))
            px = camera.fx * splat.x_over_z + camera.cx
            py = camera.fy * splat.y_over_z + camera.cy
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


@inlined
def covariance_gradient(splat, eps2d, d_conic, d_compensation):
    """Compute gradients of the covariance entries xx, xy, yy from the gradients of conic and compensation.

    Let Q be the conic matrix [[a, b], [b, c]] and rho the opacity compensation. The gradient G of Q has half
    of the gradient of b in each off-diagonal entry. The covariance gradient has two terms: -Q G Q, and
    d_compensation times the derivative of rho, ((1 - rho^2) Q - eps2d det(Q) I) / (2 rho), where 1 / rho is
    bounded as in gsplat. The returned gradient of xy is the sum of both off-diagonal entries.
    """
    xx, xy, yy, det = covariance_2d(splat.m0, splat.m1)
    inverse_det = 1.0 / (det + eps2d * (xx + yy + eps2d))
    a, b, c = (yy + eps2d) * inverse_det, -xy * inverse_det, (xx + eps2d) * inverse_det
    g00, g01, g11 = d_conic[0], 0.5 * d_conic[1], d_conic[2]
    h00, h01 = a * g00 + b * g01, a * g01 + b * g11
    h10, h11 = b * g00 + c * g01, b * g01 + c * g11
    squared = det * inverse_det
    factor = d_compensation * 0.5 / (math.sqrt(squared) + 1e-6)
    d_xx = -(h00 * a + h01 * b) + factor * ((1.0 - squared) * a - eps2d * inverse_det)
    d_xy = -2.0 * (h00 * b + h01 * c) + 2.0 * factor * (1.0 - squared) * b
    d_yy = -(h10 * b + h11 * c) + factor * ((1.0 - squared) * c - eps2d * inverse_det)
    return d_xx, d_xy, d_yy


@inlined
def quaternion_gradient(quats, index, r0, r1, r2):
    """Compute the gradient of a quaternion, as w, x, y and z, from the gradient of its rotation matrix.

    The quaternion is row `index` of `quats` (N, 4) and need not be normalized. r0, r1 and r2 are the rows of
    the gradient of the rotation matrix.
    """
    w, x, y, z, inverse = quaternion(quats, index)
    d_w = x * (r2[1] - r1[2]) + y * (r0[2] - r2[0]) + z * (r1[0] - r0[1])
    d_x = -2.0 * x * (r1[1] + r2[2]) + y * (r0[1] + r1[0]) + z * (r0[2] + r2[0]) + w * (r2[1] - r1[2])
    d_y = x * (r0[1] + r1[0]) - 2.0 * y * (r0[0] + r2[2]) + z * (r1[2] + r2[1]) + w * (r0[2] - r2[0])
    d_z = x * (r0[2] + r2[0]) + y * (r1[2] + r2[1]) - 2.0 * z * (r0[0] + r1[1]) + w * (r1[0] - r0[1])
    # Scaling the quaternion does not change the rotation, so remove the gradient's radial part.
    along = (d_w * w + d_x * x + d_y * y + d_z * z) * inverse
    s = 2.0 * inverse
    return s * (d_w - along * w), s * (d_x - along * x), s * (d_y - along * y), s * (d_z - along * z)


@kernel
def project_gradient(
    counter, means, quats, scales, viewmat, K, width, height, eps2d, radii,
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
    camera = make_camera(viewmat, K, width, height)
    fx, fy = camera.fx, camera.fy
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
            splat = project_gaussian(mean, quats, scale, i, camera)
            d_compensation = float(d_compensations[i]) if len(d_compensations) > 0 else 0.0
            d_xx, d_xy, d_yy = covariance_gradient(splat, eps2d, vector3(d_conics, i), d_compensation)
            # cov = M M^T, M = N S, N = J V R.
            d_m0 = linear_combination(2.0 * d_xx, splat.m0, d_xy, splat.m1)
            d_m1 = linear_combination(2.0 * d_yy, splat.m1, d_xy, splat.m0)
            d_n0, d_n1 = elementwise_product(d_m0, scale), elementwise_product(d_m1, scale)
            r0, r1, r2 = splat.r0, splat.r1, splat.r2
            d_jv0 = dot(d_n0, r0), dot(d_n0, r1), dot(d_n0, r2)
            d_jv1 = dot(d_n1, r0), dot(d_n1, r1), dot(d_n1, r2)
            # Rows of J V without focal length and depth: v0 - u v2 and v1 - v v2.
            inverse_z, fx_over_z, fy_over_z = splat.inverse_z, fx * splat.inverse_z, fy * splat.inverse_z
            e0 = linear_combination(1.0, camera.v0, -splat.u, camera.v2)
            e1 = linear_combination(1.0, camera.v1, -splat.v, camera.v2)
            d_e0, d_e1 = scale_vector(fx_over_z, d_n0), scale_vector(fy_over_z, d_n1)
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
            # fx / Z scales the first row, fy / Z the second; u and v shift them along v2.
            d_fx_over_z, d_fy_over_z = dot(d_jv0, e0), dot(d_jv1, e1)
            d_u, d_v = -fx_over_z * dot(d_jv0, camera.v2), -fy_over_z * dot(d_jv1, camera.v2)
            d_px, d_py = float(d_means2d[i, 0]), float(d_means2d[i, 1])
            x_over_z, y_over_z = splat.x_over_z, splat.y_over_z
            d_fx, d_fy = d_px * x_over_z + d_fx_over_z * inverse_z, d_py * y_over_z + d_fy_over_z * inverse_z
            d_cx, d_cy = d_px, d_py
            d_x_over_z, d_y_over_z = d_px * fx, d_py * fy
            if camera.u_min <= x_over_z <= camera.u_max:
                d_x_over_z += d_u
            else:  # u is at a limit, (pixels - cx) / fx
                d_fx -= d_u * splat.u / fx
                d_cx -= d_u / fx
            if camera.v_min <= y_over_z <= camera.v_max:
                d_y_over_z += d_v
            else:
                d_fy -= d_v * splat.v / fy
                d_cy -= d_v / fy
            d_x, d_y = d_x_over_z * inverse_z, d_y_over_z * inverse_z
            d_depth = float(d_depths[i]) if len(d_depths) > 0 else 0.0
            d_z = d_depth - inverse_z * (
                x_over_z * d_x_over_z
                + y_over_z * d_y_over_z
                + fx_over_z * d_fx_over_z
                + fy_over_z * d_fy_over_z
            )
            if gaussians_need_grad:
                d_mean = row_times_matrix((d_x, d_y, d_z), camera.v0, camera.v1, camera.v2)
                for k in range(3):
                    d_means[i, k] += d_mean[k]
            for k in range(3):
                d_v0, d_v1 = fx_over_z * d_jv0[k], fy_over_z * d_jv1[k]
                sums[k] += d_x * mean[k] + d_v0
                sums[4 + k] += d_y * mean[k] + d_v1
                sums[8 + k] += d_z * mean[k] - splat.u * d_v0 - splat.v * d_v1
            sums[3] += d_x
            sums[7] += d_y
            sums[11] += d_z
            sums[12] += d_fx
            sums[13] += d_fy
            sums[14] += d_cx
            sums[15] += d_cy
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
