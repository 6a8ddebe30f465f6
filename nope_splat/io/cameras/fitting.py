"""Approximate lens models of other programs by perspective or fisheye cameras with distortion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nope_splat.geometry.distortion import distortion_term_jacobian
from nope_splat.geometry.projection import equidistant, perspective
from nope_splat.io.cameras.lenses import Lens, Size, UnsuitableLens
from nope_splat.utils.typing import Array, Indices

GRID = (17, 13)
"""Columns and rows of the pixel grid, over the whole image, on which lenses are compared."""
MIN_SHARE = 0.95
"""A perspective camera is fitted only if it can show the rays of at least this fraction of the grid pixels
(see `GRID`)."""
MIN_FISHEYE_SHARE = 0.5
"""A fisheye camera is fitted only if the rays of at least this fraction of the grid pixels were found. Photos
of circular fisheye lenses show nothing in their corners."""
MAX_PERSPECTIVE_ANGLE = np.deg2rad(89.0)
"""Maximum angle between viewing rays and optical axis for a perspective camera. Rays at 90 degrees or more do
not meet the plane at depth one."""
MAX_ERROR = 0.01
"""Largest error of a fitted lens at any pixel of the grid (see `GRID`), as a fraction of the longer image
side."""
NEGLIGIBLE_ERROR = 0.1
"""Errors up to this number of pixels do not matter, because keypoints are less accurate."""
MIN_GAIN = 1.5
"""A fisheye camera is chosen only if the largest error of a perspective camera matters (see
`NEGLIGIBLE_ERROR`), and is greater by this factor than that of the fisheye camera."""
PERSPECTIVE_TERMS = np.array([0, 1, 4, 5])
"""Fitted coefficients of perspective cameras: k1, k2, p1 and p2."""
FISHEYE_TERMS = np.array([0, 1, 2, 3])
"""Fitted coefficients of fisheye cameras: k1 to k4."""


@dataclass(frozen=True)
class FittedLens:
    """Camera with one focal length that replaces a lens."""

    focal: float
    """Focal length in pixels."""
    center: tuple[float, float]
    """Principal point (x, y) in pixels."""
    distortion: tuple[float, ...]
    """Distortion coefficients k1, k2, k3, k4, p1 and p2 (see `Camera`). (6,)."""
    is_fisheye: bool
    """Whether the projection is equidistant instead of perspective."""
    max_error: float
    """Maximum distance, in pixels, between the projections of the same ray by this camera and by the lens."""
    rms_error: float
    """Root mean square distance, in pixels, between the projections of the same rays by this camera and by
    the lens."""


@lru_cache(maxsize=1024)
def fit_lens(lens: Lens, size: Size) -> FittedLens:
    """Approximate a lens by a perspective or a fisheye camera with one focal length and distortion.

    If the lens is such a camera, its distortion and principal point are kept, and the focal length is the
    mean of fx and fy. For other lenses, the focal length f, the principal point c and the coefficients k are
    fitted to the viewing rays of a grid of pixels by least squares:

        f p + f J(p) k + c = pixel,

    where p is the projection of the ray of the pixel without distortion, and J(p) the Jacobian of the
    distortion with respect to its coefficients. The system is linear in f, f k and c.

    Args:
        lens: The lens.
        size: Width and height of the images of the lens in pixels.

    Returns:
        The camera, and its errors.

    Raises:
        UnsuitableLens: If the error exceeds `MAX_ERROR`, or too many pixels have no ray (see `MIN_SHARE`).
    """
    columns, rows = (np.linspace(0, side, count) for side, count in zip(size, GRID, strict=True))
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    if lens.distortion is not None:
        focal = (lens.focals[0] + lens.focals[1]) / 2
        errors = _norms((focal / np.array(lens.focals) - 1) * (pixels - lens.center))
        is_fisheye = lens.projection == "equidistant"
        fitted = FittedLens(focal, lens.center, lens.distortion, is_fisheye, *errors)
        return _checked(fitted, lens.model, size)
    rays, valid = lens.unproject(pixels)
    if valid.mean() < (MIN_SHARE if lens.projection == "perspective" else MIN_FISHEYE_SHARE):
        raise UnsuitableLens(lens.model)
    rays, pixels = rays[valid], pixels[valid]
    fitted = _fit(equidistant(rays), pixels, FISHEYE_TERMS, is_fisheye=True)
    in_front = rays[:, 2] > np.cos(MAX_PERSPECTIVE_ANGLE)
    if in_front.sum() >= MIN_SHARE * len(valid):
        flat = _fit(perspective(rays[in_front]), pixels[in_front], PERSPECTIVE_TERMS, is_fisheye=False)
        if flat.max_error <= max(MIN_GAIN * fitted.max_error, NEGLIGIBLE_ERROR):
            fitted = flat
    return _checked(fitted, lens.model, size)


def _fit(plane: Array, pixels: Array, terms: Indices, is_fisheye: bool) -> FittedLens:
    """Fit a camera to pixels and to the projections of their rays (see `fit_lens`).

    Args:
        plane: Projections without distortion. (n, 2).
        pixels: Pixels, x then y. (n, 2).
        terms: Indices of the fitted coefficients. (m,).
        is_fisheye: Whether the projections are equidistant.
    """
    shifts = np.broadcast_to(np.eye(2), (len(plane), 2, 2))
    system = np.concatenate([plane[..., None], distortion_term_jacobian(plane)[..., terms], shifts], -1)
    system = system.reshape(2 * len(plane), -1)
    # Columns of equal length: powers of the radius differ by many orders of magnitude for long lenses.
    lengths = np.linalg.norm(system, axis=0)
    solution = np.linalg.lstsq(system / lengths, pixels.reshape(-1), rcond=None)[0] / lengths
    errors = _norms((system @ solution).reshape(-1, 2) - pixels)
    focal, cx, cy = solution[[0, -2, -1]].tolist()
    distortion = np.zeros(6)
    distortion[terms] = solution[1:-2] / focal
    return FittedLens(focal, (cx, cy), tuple(distortion.tolist()), is_fisheye, *errors)


def _checked(fitted: FittedLens, model: str, size: Size) -> FittedLens:
    """Return a fitted lens; raise `UnsuitableLens` if its error is too large."""
    if fitted.max_error < MAX_ERROR * max(size):
        return fitted
    raise UnsuitableLens(
        model,
        f"the camera models of nope-splat differ from it by up to {fitted.max_error:.3g} pixels",
    )


def _norms(errors: Array) -> tuple[float, float]:
    """Return the largest and the root mean square length of vectors (n, 2)."""
    squares = (errors**2).sum(-1)
    return float(np.sqrt(squares.max())), float(np.sqrt(squares.mean()))
