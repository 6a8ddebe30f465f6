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
class Doubts:
    """Reasons to doubt the cameras of a reconstruction, each from 0 (none) to 1."""

    disagreement: float
    """Share of the verified matches, over all pairs with many, that disagree with the cameras."""
    contradicting_pairs: float
    """Square root of the share of pairs that contradict the cameras."""
    missing_points: float
    """Square root of the share of pairs in which most points that should be visible are not found."""
    second_motions: float
    """Share of the pairs with a second epipolar geometry."""
    repetition: float
    """1 if a pattern repeats in most images, else 0."""
    similar_views: float
    """Share of the registered images that show the same view as another one."""
    focal_valley: float
    """1 if other focal lengths fit the observations equally well, 0 if they fit much worse."""
    planar: float
    """1 if homographies explain nearly all matches, else 0."""
    unregistered: float
    """Share of the training images that are not registered."""
    weak_support: float
    """1 if the registered images have few observations of track points, near 0 if they have many."""


@dataclass(frozen=True)
class Trust:
    """Agreement of the cameras with the images, and a score."""

    score: float
    """Estimated probability that AUC@5 of the registered images exceeds 90 percent, from 0 to 1."""
    doubts: Doubts
    """The evidence from which the score is computed."""
    images: NDArray[np.floating]
    """Share of each image's evidence that agrees with its pose, from 0 to 1; NaN without a pose. (N,)."""
    pairs: NDArray[np.floating]
    """The same for each edge of the match graph; NaN if an image has no pose. (E,)."""
