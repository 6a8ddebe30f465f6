"""Lens models of other programs: projection of points in camera coordinates to pixels.

Each model projects a point X to a plane, and then distorts its coordinates on this plane:

    pixel = A d(q(X)) + c,   A = [[fx, skew], [0, fy]].

The projection q is perspective, a fisheye projection, or COLMAP's FOV, DIVISION or EUCM. The distortion d is
the Brown-Conrady model with rational radial distortion and thin prism terms; c is the principal point. The
supported models of COLMAP, nerfstudio, OpenSfM, RealityScan and Metashape have this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial.polynomial import polyval

from nope_splat.geometry.distortion import squared_radius
from nope_splat.geometry.projection import perspective
from nope_splat.io.camera_checks import one_line
from nope_splat.utils.typing import Array, Mask

Size = tuple[float, float]
"""Width and height of an image in pixels."""
Projection = Literal["perspective", "equidistant", "equisolid", "fov", "division", "eucm"]
"""Projection of viewing rays to the plane on which distortion is applied."""
SMALLEST_SINE = 1e-12
"""Rays whose angle to the optical axis has a smaller sine than this are treated as parallel to the axis."""
CONTINUATION_STEPS = 8
"""Number of steps in which `Lens.unproject` moves from the principal point to each pixel."""
NEWTON_STEPS = 6
"""Maximum number of Newton steps per continuation step in `Lens.unproject`. Few are needed, because Newton's
method converges quadratically."""
DIFFERENCE = 1e-6
"""Step of numerical derivatives with respect to angles, in radians."""
LARGEST_STEP = 0.2
"""Maximum length of a Newton step, in radians; longer steps are shortened to this length."""
SMALLEST_STEP = 1e-12
"""The iteration ends when all Newton steps are below this angle, in radians."""
LARGEST_ANGLE = np.deg2rad(140.0)
"""Maximum angle between a viewing ray and the optical axis, in radians. Real fisheye lenses show no larger
angles."""
LARGEST_ERROR = 1e-4
"""Maximum reprojection error of a ray from `Lens.unproject`, as a fraction of the smaller of fx and fy."""


class UnsuitableLens(ValueError):
    """Exception for a lens that none of the lens models of `Camera` can represent.

    Args:
        model: Name of the lens model.
        reason: Why the lens is not suitable.
    """

    def __init__(self, model: str, reason: str = "its field of view is too large") -> None:
        super().__init__(f"its camera model is {one_line(model, 40)}, and {reason}")


def panorama_error(model: str) -> UnsuitableLens:
    """Return the exception for a panorama of the whole sphere, given the name of its lens model."""
    return UnsuitableLens(model, "panoramas of the whole sphere are not supported")


@dataclass(frozen=True)
class Lens:
    """Lens model with its parameters, in pixels; the center of the first pixel is at (0.5, 0.5)."""

    model: str
    """Name of the model, for messages."""
    focals: tuple[float, float]
    """Focal lengths fx and fy in pixels."""
    center: tuple[float, float]
    """Principal point (x, y) in pixels."""
    radial: tuple[float, ...] = ()
    """Coefficients k1, k2, ... of the radial polynomial 1 + k1 r^2 + k2 r^4 + ..."""
    denominator: tuple[float, ...] = ()
    """Coefficients of r^2, r^4 and so on in the polynomial by which the radial polynomial is divided."""
    tangential: tuple[float, float] = (0.0, 0.0)
    """OpenCV's p1 and p2: x moves by 2 p1 x y + p2 (r^2 + 2 x^2), y by p1 (r^2 + 2 y^2) + 2 p2 x y."""
    tangential_factor: tuple[float, ...] = ()
    """Coefficients of r^2, r^4 and so on in the polynomial by which the tangential terms are multiplied."""
    thin_prism: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Coefficients (s0, s1, s2, s3): x moves by s0 r^2 + s1 r^4, y by s2 r^2 + s3 r^4."""
    is_sequential: bool = False
    """Whether tangential and thin prism terms depend on points after (not before) radial distortion."""
    skew: float = 0.0
    """Skew s in pixels: x = fx xd + s yd + cx for distorted coordinates (xd, yd) on the plane."""
    projection: Projection = "perspective"
    """Projection of viewing rays to the plane."""
    shape: tuple[float, ...] = ()
    """Parameters of the projection: omega of "fov", k of "division", alpha and beta of "eucm"."""

    @property
    def distortion(self) -> tuple[float, ...] | None:
        """Coefficients k1, k2, k3, k4, p1 and p2 if the lens is a `Camera`, apart from unequal fx and fy.

        None for other lenses. (6,).
        """
        is_fisheye = self.projection == "equidistant"
        radial = (*self.radial, *4 * [0.0])
        others = (*self.denominator, *self.tangential_factor, *self.thin_prism, self.skew)
        others += (*radial[4:], *self.tangential) if is_fisheye else radial[2:]
        if self.projection not in ("perspective", "equidistant") or any(others) or self.is_sequential:
            return None
        return (*radial[:4], *self.tangential)

    def project(self, points_camera: Array) -> Array:
        """Project points in front of the camera to pixels.

        Args:
            points_camera: Points in camera coordinates (OpenCV axes). (n, 3).

        Returns:
            Pixel coordinates, x then y; NaN or infinity for points that the lens does not show. (n, 2).
        """
        with np.errstate(all="ignore"):
            x, y = self._distort(self._to_plane(points_camera)).T
            xy = [self.focals[0] * x + self.skew * y + self.center[0], self.focals[1] * y + self.center[1]]
            return np.stack(xy, axis=-1)

    def unproject(self, xy: Array) -> tuple[Array, Mask]:
        """Compute the viewing rays of pixels by Newton's method.

        Several steps lead from the principal point to each pixel, so that the solution stays on the innermost
        branch if a distortion polynomial is not monotonic.

        Args:
            xy: Pixel coordinates, x then y. (n, 2).

        Returns:
            Unit viewing rays (n, 3), the optical axis for those that were not found; and whether each ray was
            found within `LARGEST_ANGLE` (n,).
        """
        center = np.array(self.center)
        angles, valid = np.zeros((len(xy), 2)), np.ones(len(xy), bool)
        with np.errstate(all="ignore"):
            for fraction in np.linspace(0, 1, CONTINUATION_STEPS + 1)[1:]:
                target = center + fraction * (xy - center)
                angles *= fraction / (fraction - 1 / CONTINUATION_STEPS) if fraction > 0.2 else 1.0
                for _ in range(NEWTON_STEPS):
                    step, determinant = self._newton_step(angles, target)
                    angles = angles + step
                    if np.abs(step).max() < SMALLEST_STEP:
                        break
                error = np.linalg.norm(self.project(_rays(angles)) - target, axis=1)
                valid &= (error < LARGEST_ERROR * min(self.focals)) & (determinant > 0)
        valid &= np.linalg.norm(angles, axis=1) < LARGEST_ANGLE
        return _rays(np.where(valid[:, None], angles, 0.0)), valid

    def _newton_step(self, angles: Array, target: Array) -> tuple[Array, Array]:
        """Return Newton steps (n, 2) of `angles` (see `_rays`), and determinants of the Jacobians (n,)."""
        here = self.project(_rays(angles))
        by_x = (self.project(_rays(angles + np.array([DIFFERENCE, 0]))) - here) / DIFFERENCE
        by_y = (self.project(_rays(angles + np.array([0, DIFFERENCE]))) - here) / DIFFERENCE
        determinant = by_x[:, 0] * by_y[:, 1] - by_x[:, 1] * by_y[:, 0]
        error = target - here
        step = np.stack(
            [
                (error[:, 0] * by_y[:, 1] - error[:, 1] * by_y[:, 0]) / determinant,
                (error[:, 1] * by_x[:, 0] - error[:, 0] * by_x[:, 1]) / determinant,
            ],
            axis=-1,
        )
        step = np.where(np.isfinite(step), step, 0.0)
        length = np.linalg.norm(step, axis=1, keepdims=True)
        return step * np.minimum(1, LARGEST_STEP / np.maximum(length, LARGEST_STEP)), determinant

    def _to_plane(self, points: Array) -> Array:
        """Apply the projection q to points in camera coordinates. (n, 3) -> (n, 2)."""
        if self.projection == "perspective":
            return perspective(points)
        xy, z = points[:, :2], points[:, 2:]
        radius = np.sqrt(squared_radius(xy))
        if self.projection == "division":
            return xy * 2 / (z + np.sqrt(z**2 - 4 * self.shape[0] * radius**2))
        if self.projection == "eucm":
            alpha, beta = self.shape
            return xy / (alpha * np.sqrt(beta * radius**2 + z**2) + (1 - alpha) * z)
        if self.projection == "fov":
            omega = self.shape[0]
            plane_radius = np.arctan2(2 * radius * np.tan(omega / 2), z) / omega
        else:
            theta = np.arctan2(radius, z)
            plane_radius = theta if self.projection == "equidistant" else 2 * np.sin(theta / 2)
        on_axis = radius < SMALLEST_SINE * np.abs(z)
        return np.where(on_axis, xy / z, xy * (plane_radius / np.where(on_axis, 1.0, radius)))

    def _distort(self, plane: Array) -> Array:
        """Apply the distortion d to points on the plane. (n, 2) -> (n, 2)."""
        square = squared_radius(plane)[:, 0]
        ratio = polyval(square, [1, *self.radial]) / polyval(square, [1, *self.denominator])
        distorted = plane * ratio[:, None]
        if not any(self.tangential) and not any(self.thin_prism):
            return distorted
        if self.is_sequential:
            plane, square = distorted, squared_radius(distorted)[:, 0]
        x, y = plane.T
        (p1, p2), (s0, s1, s2, s3) = self.tangential, self.thin_prism
        factor = polyval(square, [1, *self.tangential_factor])
        moved_x = factor * (2 * p1 * x * y + p2 * (square + 2 * x**2)) + polyval(square, [0, s0, s1])
        moved_y = factor * (2 * p2 * x * y + p1 * (square + 2 * y**2)) + polyval(square, [0, s2, s3])
        return distorted + np.stack([moved_x, moved_y], axis=-1)


def _rays(angles: Array) -> Array:
    """Convert angles to unit rays. (n, 2) -> (n, 3).

    The length of each row of `angles` is the angle between ray and optical axis, in radians; the direction of
    the row is the direction of the ray in the image.
    """
    length = np.linalg.norm(angles, axis=1, keepdims=True)
    return np.concatenate([angles * np.sinc(length / np.pi), np.cos(length)], axis=1)
