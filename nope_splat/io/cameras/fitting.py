"""Approximate lens models of other programs by pinhole cameras with radial distortion k1 and k2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nope_splat.geometry.distortion import radial_term_jacobian
from nope_splat.io.cameras.lenses import Lens, Size, UnsuitableLens
from nope_splat.utils.typing import Array

GRID = (17, 13)
"""Columns and rows of the pixel grid, over the whole image, on which lenses are compared."""
MIN_SHARE = 0.95
"""A lens is fitted only if the rays of at least this fraction of the grid pixels (see `GRID`) are less than
89 degrees from the optical axis."""
MAX_ERROR = 0.01
"""Largest error of a fitted lens at any pixel of the grid (see `GRID`), as a fraction of the longer image
side. Fisheye lenses with a diagonal field of view of up to 120 degrees have smaller errors."""


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
    """Maximum distance, in pixels, between the projections of the same ray by this camera and by the lens."""
    rms_error: float
    """Root mean square distance, in pixels, between the projections of the same rays by this camera and by
    the lens."""


@lru_cache(maxsize=1024)
def fit_lens(lens: Lens, size: Size) -> FittedLens:
    """Approximate a lens by a pinhole camera with radial distortion.

    If the lens is a pinhole camera with radial distortion k1 and k2, its distortion and principal point are
    kept, and the focal length is the mean of fx and fy. For other lenses, the focal length f, the principal
    point c, k1 and k2 are fitted to the viewing rays of a grid of pixels by least squares:

        f p + f k1 s p + f k2 s^2 p + c = pixel,   s = |p|^2,

    where p is the point at depth one on the ray of the pixel. The system is linear in f, f k1, f k2 and c.

    Args:
        lens: The lens.
        size: Width and height of the images of the lens in pixels.

    Returns:
        The pinhole camera, and its errors.

    Raises:
        UnsuitableLens: If the error exceeds `MAX_ERROR`, or too many pixels have a ray at 89 degrees or more
            from the optical axis (see `MIN_SHARE`).
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
