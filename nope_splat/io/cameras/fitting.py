"""Fit a pinhole camera with radial distortion k1 and k2 to lenses of other programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nope_splat.geometry.distortion import radial_term_jacobian
from nope_splat.io.cameras.lenses import Lens, Size, UnsuitableLens
from nope_splat.utils.typing import Array

GRID = (17, 13)
"""Number of columns and rows of pixels, over the whole image, at which lenses are compared."""
MIN_SHARE = 0.95
"""Smallest fraction of these pixels whose ray must be less than 89 degrees from the optical axis."""
MAX_ERROR = 0.01
"""Largest error of a fitted lens at any of these pixels, as a fraction of the longer image side. Fisheye
lenses with a diagonal field of view of up to 120 degrees are below it."""


@dataclass(frozen=True)
class FittedLens:
    """Pinhole camera with radial distortion that replaces a lens."""

    focal: float
    """Focal length in pixels."""
    center: tuple[float, float]
    """Principal point (x, y) in pixels."""
    radial: tuple[float, float]
    """Radial distortion k1 and k2."""
    max_error: float
    """Largest distance, in pixels, from the projection by the original lens."""
    rms_error: float
    """Root mean square distance in pixels."""


@lru_cache(maxsize=1024)
def fit_lens(lens: Lens, size: Size) -> FittedLens:
    """Find the pinhole camera with radial distortion that projects most like a lens.

    Pinhole cameras with radial distortion k1, k2 are taken over exactly; their focal length is the mean of fx
    and fy. For other lenses, focal length f, principal point c and distortion minimize the sum of squared
    distances between projections of the rays of a grid of pixels. The unknowns f, f k1, f k2 and c are linear
    in

        f p + f k1 s p + f k2 s^2 p + c = pixel,   s = |p|^2,

    where p is the point at depth one on the ray of the pixel.

    Args:
        lens: The lens.
        size: Width and height of its images in pixels.

    Returns:
        The pinhole camera, and its errors.

    Raises:
        UnsuitableLens: If the error exceeds `MAX_ERROR`, or the lens shows rays at nearly 90 degrees or more
            from the optical axis.
    """
    columns, rows = (np.linspace(0, side, count) for side, count in zip(size, GRID, strict=True))
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    if lens.is_radial_pinhole:
        k1, k2, *_ = (*lens.radial, 0.0, 0.0)
        focal = (lens.focals[0] + lens.focals[1]) / 2
        errors = _norms((focal / np.array(lens.focals) - 1) * (pixels - lens.center))
        return _checked(FittedLens(focal, lens.center, (k1, k2), *errors), lens.model, size)
    plane, valid = lens.unproject(pixels)
    if valid.mean() < MIN_SHARE:
        raise UnsuitableLens(lens.model)
    plane, pixels = plane[valid], pixels[valid]
    ones, zeros = np.ones(len(plane)), np.zeros(len(plane))
    shifts = np.stack([np.stack([ones, zeros], -1), np.stack([zeros, ones], -1)], 1)
    system = np.concatenate([plane[..., None], radial_term_jacobian(plane), shifts], -1).reshape(-1, 5)
    # Columns of equal length: powers of the radius differ by many orders of magnitude for long lenses.
    lengths = np.linalg.norm(system, axis=0)
    solution = np.linalg.lstsq(system / lengths, pixels.reshape(-1), rcond=None)[0] / lengths
    errors = _norms((system @ solution).reshape(-1, 2) - pixels)
    focal, focal_k1, focal_k2, cx, cy = solution.tolist()
    fitted = FittedLens(focal, (cx, cy), (focal_k1 / focal, focal_k2 / focal), *errors)
    return _checked(fitted, lens.model, size)


def _checked(fitted: FittedLens, model: str, size: Size) -> FittedLens:
    """Return a fitted lens; raise `UnsuitableLens` if its error is too large."""
    if fitted.max_error < MAX_ERROR * max(size):
        return fitted
    raise UnsuitableLens(
        model,
        f"a pinhole camera with radial distortion differs from it by up to {fitted.max_error:.3g} pixels",
    )


def _norms(errors: Array) -> tuple[float, float]:
    """Return the largest and the root mean square length of vectors (n, 2)."""
    squares = (errors**2).sum(-1)
    return float(np.sqrt(squares.max())), float(np.sqrt(squares.mean()))
