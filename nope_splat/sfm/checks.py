"""Refuse options that do not fit together or do not fit the photos, before any work starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFolder, assign_cameras
from nope_splat.matching.options import DUST3R_WEIGHTS
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.sfm.initialization.pointmap_alignment import PointmapInitialization
from nope_splat.sfm.options import SfmOptions
from nope_splat.utils.ranges import check_ranges

POSSIBLE_FOCAL = (0.1, 20.0)
"""Shortest and longest focal length that a lens may have, as a share of the longer side."""


def check_sfm_options(options: SfmOptions) -> None:
    """Refuse options that are out of range or contradict each other.

    Args:
        options: Options of structure from motion.

    Raises:
        NopeSplatError: For the first contradiction, with what to do about it.
    """
    check_ranges(options)
    matching, initialization = options.matching, options.initialization
    if isinstance(initialization, PointmapInitialization) and matching.matcher != "dust3r":
        raise NopeSplatError(
            "conflicting-options",
            f"initialization pointmaps needs pointmaps, and {matching.matcher} makes none; set"
            " matching.matcher to dust3r",
        )
    if isinstance(initialization, KnownCamerasInitialization) and options.initial_focal is not None:
        raise NopeSplatError(
            "conflicting-options",
            "the file of known cameras has the focal length already; leave out initial-focal, or the known"
            " cameras",
        )
    if matching.matcher == "dust3r" and options.depth.maps is not None:
        raise NopeSplatError(
            "conflicting-options",
            "depth comes from the matcher dust3r or from depth.maps; leave out one of them",
        )
    if matching.matcher != "dust3r" and matching.dust3r_weights != DUST3R_WEIGHTS:
        raise NopeSplatError(
            "conflicting-options",
            f"matching.dust3r-weights is given, but the matcher is {matching.matcher}; set"
            " matching.matcher to dust3r",
        )
    if options.mapper.ba_device == "cuda" and not torch.cuda.is_available():
        raise NopeSplatError(
            "missing-device", "mapper.ba-device is cuda, but torch finds no GPU here; choose cpu"
        )


def check_images(options: SfmOptions, folder: ImageFolder, held_out: Sequence[str]) -> None:
    """Refuse options that do not fit the images.

    Args:
        options: Options of structure from motion.
        folder: The images.
        held_out: Names of images kept for evaluation.

    Raises:
        NopeSplatError: For the first contradiction, with what to do about it.
    """
    unknown = sorted(set(held_out) - {image.name for image in folder.images})
    if unknown:
        raise NopeSplatError(
            "name-mismatch", f"the held-out photo {unknown[0]} is not in {folder.root}; check its name"
        )
    if assign_cameras(folder.images, options.camera_per).any():
        _check_several_cameras(options)
    if options.initial_focal is not None:
        longer_side = max(max(image.width, image.height) for image in folder.images)
        shortest, longest = (share * longer_side for share in POSSIBLE_FOCAL)
        if not shortest <= options.initial_focal <= longest:
            raise NopeSplatError(
                "invalid-option",
                f"initial-focal is {options.initial_focal:g}, but photos of {longer_side} pixels have focal"
                f" lengths from {shortest:g} to {longest:g} pixels; it is not in millimeters",
            )


def _check_several_cameras(options: SfmOptions) -> None:
    """Refuse options that know one focal length only."""
    for is_used, what in (
        (options.initial_focal is not None, "initial-focal is"),
        (isinstance(options.initialization, MonocularDepthInitialization), "initialization depth takes"),
        (isinstance(options.initialization, PointmapInitialization), "initialization pointmaps takes"),
    ):
        if is_used:
            raise NopeSplatError(
                "invalid-option",
                f"{what} one focal length, but the photos are of several sizes or folders and so of several"
                " cameras; leave it out",
            )
