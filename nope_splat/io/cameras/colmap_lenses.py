"""Convert COLMAP cameras to lenses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nope_splat.io.cameras.lenses import Lens, panorama_error
from nope_splat.io.colmap import SINGLE_FOCAL_MODELS

Values = Sequence[float]


def _rad_tan_thin_prism(values: Values) -> dict[str, object]:
    """Convert k0, ..., k5, p0, p1, s0, ..., s3 of RAD_TAN_THIN_PRISM_FISHEYE to arguments of `Lens`."""
    return {
        "projection": "equidistant",
        "radial": tuple(values[:6]),
        "tangential": (values[7], values[6]),  # p0 multiplies r^2 + 2 x^2, as OpenCV's p2 does
        "thin_prism": tuple(values[8:]),
        "is_sequential": True,
    }


def _thin_prism(values: Values) -> dict[str, object]:
    """Convert k1, k2, p1, p2, k3, k4, sx1, sy1 of THIN_PRISM_FISHEYE to arguments of `Lens`."""
    k1, k2, p1, p2, k3, k4, sx1, sy1 = values
    return {
        "projection": "equidistant",
        "radial": (k1, k2, k3, k4),
        "tangential": (p1, p2),
        "thin_prism": (sx1, 0.0, sy1, 0.0),
    }


def _full_opencv(values: Values) -> dict[str, object]:
    """Convert k1, k2, p1, p2, k3, k4, k5, k6 of FULL_OPENCV to arguments of `Lens`."""
    k1, k2, p1, p2, k3, *denominator = values
    return {"radial": (k1, k2, k3), "denominator": tuple(denominator), "tangential": (p1, p2)}


def _radial(values: Values) -> dict[str, object]:
    """Return the radial distortion of perspective models as arguments of `Lens`."""
    return {"radial": tuple(values)}


def _fisheye(values: Values) -> dict[str, object]:
    """Return the radial distortion of equidistant fisheye models as arguments of `Lens`."""
    return {"projection": "equidistant", "radial": tuple(values)}


def _fov(values: Values) -> dict[str, object]:
    """Convert omega of FOV to arguments of `Lens`; with omega = 0, the lens is a pinhole camera."""
    return {"projection": "fov", "shape": tuple(values)} if values[0] else {}


def _division(values: Values) -> dict[str, object]:
    """Convert k of SIMPLE_DIVISION or DIVISION to arguments of `Lens`."""
    return {"projection": "division", "shape": tuple(values)}


MODELS: dict[str, Callable[[Values], dict[str, object]]] = {
    "SIMPLE_PINHOLE": _radial,
    "PINHOLE": _radial,
    "SIMPLE_RADIAL": _radial,
    "RADIAL": _radial,
    "OPENCV": lambda values: {"radial": tuple(values[:2]), "tangential": tuple(values[2:])},
    "OPENCV_FISHEYE": _fisheye,
    "FULL_OPENCV": _full_opencv,
    "FOV": _fov,
    "SIMPLE_RADIAL_FISHEYE": _fisheye,
    "RADIAL_FISHEYE": _fisheye,
    "THIN_PRISM_FISHEYE": _thin_prism,
    "RAD_TAN_THIN_PRISM_FISHEYE": _rad_tan_thin_prism,
    "SIMPLE_DIVISION": _division,
    "DIVISION": _division,
    "SIMPLE_FISHEYE": _fisheye,
    "FISHEYE": _fisheye,
    "EUCM": lambda values: {"projection": "eucm", "shape": tuple(values)},
}
"""For each COLMAP camera model: function that converts the parameters after the principal point to arguments
of `Lens`. EQUIRECTANGULAR is missing, because no `Lens` shows the whole sphere."""


def colmap_lens(model: str, params: Values) -> Lens:
    """Convert a COLMAP camera to a lens.

    Args:
        model: Name of the camera model.
        params: Parameters in COLMAP's order.

    Returns:
        The lens.

    Raises:
        UnsuitableLens: If the model is EQUIRECTANGULAR.
    """
    if model not in MODELS:
        raise panorama_error(model)
    num_focals = 1 if model in SINGLE_FOCAL_MODELS else 2
    fx, fy = params[0], params[num_focals - 1]
    cx, cy, *others = params[num_focals:]
    return Lens(model, (fx, fy), (cx, cy), **MODELS[model](others))  # type: ignore[arg-type]
