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
    "contradicting-known-cameras",
    "uncertain-focal-length",
    "implausible-focal-length",
    "exif-focal-length",
    "mixed-cameras",
    "separated-cameras",
    "uncertain-poses",
    "rolling-shutter",
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
    - `contradicting-known-cameras`: Known cameras contradict the matches, and are not used.
    - `uncertain-focal-length`: The images do not determine the focal length.
    - `implausible-focal-length`: Ordinary lenses do not have this focal length.
    - `exif-focal-length`: The estimated focal length differs greatly from the EXIF data.
    - `mixed-cameras`: Some images were cropped, zoomed or taken with another lens.
    - `separated-cameras`: Images of one size do not fit one focal length and were assigned several cameras.
    - `uncertain-poses`: The observations are too noisy or too few for accurate poses.
    - `rolling-shutter`: The cameras moved while the rows of their images were read.
    - `weak-support`: Few images or few points support the result.
    """

    code: NoticeCode
    """Kind of the notice, for use by programs."""
    message: str
    """Cause and remedy, for the user; a sentence without an initial capital or a final period."""


@dataclass(frozen=True)
class Doubts:
    """Reasons to doubt the cameras of a reconstruction, each from 0 (no doubt) to 1 (strong doubt)."""

    disagreement: float
    """Fraction of the verified matches that disagree with the poses, over all pairs with at least
    `EvidenceOptions.min_num_matches` matches."""
    contradicting_pairs: float
    """Square root of the fraction of pairs that contradict the cameras, among the pairs with at least
    `EvidenceOptions.min_num_matches` matches."""
    missing_points: float
    """Square root of the fraction of ordered image pairs in which most of the expected points are missing.
    Points of the first image are expected if they should be visible in the second image. They are missing if
    the second image seems to show something else in their place."""
    second_motions: float
    """Fraction of pairs whose matches support a second epipolar geometry, among the pairs with at least
    `EvidenceOptions.min_num_matches` matches."""
    repetition: float
    """1 if a pattern repeats within most images, otherwise 0."""
    similar_views: float
    """Fraction of redundant images: 1 minus the ratio of the number of distinct viewpoints to the number of
    registered images. Nearly identical views count as one viewpoint."""
    focal_valley: float
    """1 if other focal lengths explain the observations as well as the estimated focal length does; near 0 if
    they explain the observations much worse."""
    mixed_cameras: float
    """Near 0 if all images fit one camera, 1 if they fit much better with separate intrinsics."""
    planar: float
    """1 if homographies explain nearly all matches, otherwise 0."""
    unregistered: float
    """Fraction of the training images that are not registered."""
    weak_support: float
    """1 if the registered images have too few observations of track points, near 0 if they have many."""


@dataclass(frozen=True)
class Trust:
    """Estimated reliability of a reconstruction, overall and for each image and pair."""

    score: float
    """Estimated probability, from 0 to 1, that the relative poses of the registered images have an AUC@5
    above 90 percent. AUC@5 is the area under the recall curve of pose errors up to 5 degrees."""
    doubts: Doubts
    """Reasons to doubt the cameras, from which the score is computed."""
    images: NDArray[np.floating]
    """Fraction of each image's verified matches that agree with its pose, from 0 to 1; NaN for images without
    a pose or without matches. (N,)."""
    pairs: NDArray[np.floating]
    """Fraction of the verified matches of each pair that agree with the poses, from 0 to 1; NaN if an image
    of the pair has no pose. The pairs are the edges of the match graph, in the same order. (E,)."""
