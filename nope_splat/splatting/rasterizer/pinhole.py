"""Pinhole projection of a Gaussian, and its gradient.

    mean2d = (fx X/Z + cx, fy Y/Z + cy)
    J      = [[fx/Z, 0, -fx u/Z], [0, fy/Z, -fy v/Z]]    with (u, v) = (X/Z, Y/Z) clamped to the image plus a
                                             margin of 15 % of its size on each side, because the
                                             linearization is inaccurate far outside the image
    J V    = [fx/Z e0, fy/Z e1]              with the rows e0 = v0 - u v2 and e1 = v1 - v v2, where v0, v1 and
                                             v2 are the rows of V

The module `projection` defines the other symbols. For the gradient, d(...) denotes the derivative of the loss
with respect to the quantity in parentheses. d(J V) is given, so that d(fx/Z) = d((J V)_0) . e0 and
d(u) = -fx/Z d((J V)_0) . v2. If u is at a limit, (pixels - cx) / fx, it depends on fx and cx instead of X/Z.
"""

from __future__ import annotations

from typing import NamedTuple

from nope_splat.splatting.rasterizer.covariance import rotation
from nope_splat.splatting.rasterizer.kernels import inlined
from nope_splat.splatting.rasterizer.vectors import (
    Vector3,
    dot,
    elementwise_product,
    linear_combination,
    row_times_matrix,
    vector3,
)


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
def make_camera(viewmat, K, width, height):
    """Create a `Camera` from a view matrix (4, 4), intrinsics (3, 3) and an image size in pixels."""
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
def project_gaussian(camera, mean, quats, scale, index):
    """Project a Gaussian to a `Splat`. The Gaussian must lie in front of the camera.

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
def center(camera, splat):
    """Compute the center of a splat in pixels, x and y."""
    return camera.fx * splat.x_over_z + camera.cx, camera.fy * splat.y_over_z + camera.cy


@inlined
def factored_rows(camera, splat):
    """Factor the two rows of J V into scalars and vectors: fx/Z, e0, fy/Z and e1."""
    return (
        camera.fx * splat.inverse_z,
        linear_combination(1.0, camera.v0, -splat.u, camera.v2),
        camera.fy * splat.inverse_z,
        linear_combination(1.0, camera.v1, -splat.v, camera.v2),
    )


@inlined
def mean_gradient(camera, splat, d_px, d_py, d_depth, d_jv0, d_jv1):
    """Compute the gradients of the mean in camera coordinates (3) and of the intrinsics fx, fy, cx and cy.

    `d_px` and `d_py` are the gradients of the splat's center, `d_depth` that of its depth, and `d_jv0` and
    `d_jv1` those of the rows of J V.
    """
    fx, fy, inverse_z = camera.fx, camera.fy, splat.inverse_z
    fx_over_z, e0, fy_over_z, e1 = factored_rows(camera, splat)
    # fx / Z scales the first row, fy / Z the second; u and v shift them along v2.
    d_fx_over_z, d_fy_over_z = dot(d_jv0, e0), dot(d_jv1, e1)
    d_u, d_v = -fx_over_z * dot(d_jv0, camera.v2), -fy_over_z * dot(d_jv1, camera.v2)
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
    d_z = d_depth - inverse_z * (
        x_over_z * d_x_over_z + y_over_z * d_y_over_z + fx_over_z * d_fx_over_z + fy_over_z * d_fy_over_z
    )
    return (d_x_over_z * inverse_z, d_y_over_z * inverse_z, d_z), (d_fx, d_fy, d_cx, d_cy)


@inlined
def add_view_gradient(camera, splat, d_point, mean, d_jv0, d_jv1, sums):
    """Add the gradient of V to elements 0-2, 4-6 and 8-10 of `sums`: d_point mean^T + J^T d_jv.

    `d_point` is the gradient of the mean in camera coordinates, and `mean` the mean in world coordinates.
    """
    fx_over_z, fy_over_z = camera.fx * splat.inverse_z, camera.fy * splat.inverse_z
    for k in range(3):
        d_v0, d_v1 = fx_over_z * d_jv0[k], fy_over_z * d_jv1[k]
        sums[k] += d_point[0] * mean[k] + d_v0
        sums[4 + k] += d_point[1] * mean[k] + d_v1
        sums[8 + k] += d_point[2] * mean[k] - splat.u * d_v0 - splat.v * d_v1
