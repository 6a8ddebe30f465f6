"""How far a reconstruction is to be trusted: notices about what may be wrong, and a score."""

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
    "contradicting-known-cameras",
    "uncertain-focal-length",
    "implausible-focal-length",
    "weak-support",
]
"""What a notice is about; `Notice` explains each code."""


@dataclass(frozen=True)
class Notice:
    """One thing that the user should know about a reconstruction.

    The codes are:

    - `stationary-pixels`: Something stands still while the scene moves; its pixels are not used.
    - `repeated-pattern`: A pattern repeats, and cameras may be off by a period.
    - `duplicate-structure`: Different things look alike and may have been merged.
    - `moving-objects`: Two things move against each other.
    - `mirrored-images`: Some images are mirrored.
    - `contradicting-known-cameras`: Known cameras contradict the matches, and are not used.
    - `uncertain-focal-length`: The images do not determine the focal length.
    - `implausible-focal-length`: No ordinary lens has this focal length.
    - `weak-support`: Few images or points support the result.
    """

    code: NoticeCode
    """What it is about, for programs."""
    message: str
    """What it is about and what to do, for the user; a sentence without an initial capital or a
    final period."""


@dataclass(frozen=True)
class Trust:
    """Agreement of the cameras with the images, and a score."""

    score: float
    """Logistic function of the evidence for and against the cameras, from 0 to 1; not calibrated yet."""
    images: NDArray[np.floating]
    """Share of each image's evidence that agrees with its pose, from 0 to 1; NaN without a pose. (N,)."""
    pairs: NDArray[np.floating]
    """The same for each edge of the match graph; NaN if an image has no pose. (E,)."""
