"""Reliability of a reconstruction: a trust score, and notices about possible errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoticeCode = Literal[
    "stationary-pixels",
    "repeated-pattern",
    "duplicate-structure",
    "moving-objects",
    "mirrored-images",
    "uncertain-focal-length",
    "implausible-focal-length",
    "weak-support",
]
"""Kind of a notice; the docstring of `Notice` explains each code."""


@dataclass(frozen=True)
class Notice:
    """Warning about a possible problem of a reconstruction.

    The codes are:

    - `stationary-pixels`: Some pixels move with the camera instead of the scene; they are not used.
    - `repeated-pattern`: A pattern repeats, and cameras may be displaced by one period.
    - `duplicate-structure`: Similar but different parts of the scene may have been merged.
    - `moving-objects`: Two parts of the scene move relative to each other.
    - `mirrored-images`: Some images are mirrored.
    - `uncertain-focal-length`: The images do not determine the focal length.
    - `implausible-focal-length`: Ordinary lenses do not have this focal length.
    - `weak-support`: Few images or few points support the result.
    """

    code: NoticeCode
    """Kind of the notice, for use by programs."""
    message: str
    """Cause and remedy, for the user; a sentence without an initial capital or a final period."""


@dataclass(frozen=True)
class Trust:
    """Reliability of the cameras, from the agreement of matches with poses."""

    score: float
    """Overall score from 0 (doubtful) to 1 (reliable): a logistic function of all evidence. It is not a
    calibrated probability yet."""
    images: NDArray[np.floating]
    """Fraction of each image's verified matches that agree with its pose, from 0 to 1; NaN without a pose.
    (N,)."""
    pairs: NDArray[np.floating]
    """Fraction of the verified matches that agree with the poses, for each edge of the match graph; NaN if an
    image of the pair has no pose. (E,)."""
