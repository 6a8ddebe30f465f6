"""Validation of the SfM options before any work starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFolder
from nope_splat.matching.options import DUST3R_WEIGHTS
from nope_splat.sfm.camera_assignment import assign_cameras
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.sfm.initialization.pointmap_alignment import PointmapInitialization
from nope_splat.sfm.options import SfmOptions
from nope_splat.utils.ranges import check_ranges

POSSIBLE_FOCAL = (0.1, 20.0)
"""Shortest and longest focal length that users may set, as multiples of the longer image side."""


def check_sfm_options(options: SfmOptions) -> None:
    """Check that options are in range and do not conflict with each other.

    Args:
        options: Options of SfM.

    Raises:
        NopeSplatError: For the first invalid option; the message says how to fix it.
    """
    check_ranges(options)
    matching, initialization = options.matching, options.initialization
    if isinstance(initialization, PointmapInitialization) and matching.matcher != "dust3r":
        raise NopeSplatError(
            "conflicting-options",
            f"initialization pointmaps needs pointmaps, but the matcher {matching.matcher} produces none;"
            " set matching.matcher to dust3r",
        )
    if isinstance(initialization, KnownCamerasInitialization) and options.initial_focal is not None:
        raise NopeSplatError(
            "conflicting-options",
            "the file of known cameras already has a focal length; remove initial-focal or the known cameras",
        )
    if isinstance(initialization, KnownCamerasInitialization) and not initialization.path.exists():
        raise NopeSplatError(
            "missing-file", f"the file of known cameras {initialization.path} does not exist; check the path"
        )
    if matching.matcher == "dust3r" and options.depth.maps is not None:
        raise NopeSplatError(
            "conflicting-options",
            "the matcher dust3r and depth.maps both provide depth; use only one of them",
        )
    if matching.matcher != "dust3r" and matching.dust3r_weights != DUST3R_WEIGHTS:
        raise NopeSplatError(
            "conflicting-options",
            f"matching.dust3r-weights is set, but the matcher is {matching.matcher}; set matching.matcher to"
            " dust3r",
        )
    if options.mapper.ba_device == "cuda" and not torch.cuda.is_available():
        raise NopeSplatError(
            "missing-device",
            "mapper.ba-device is cuda, but PyTorch found no GPU; check that nvidia-smi lists one, or choose"
            " cpu",
        )


def check_images(options: SfmOptions, folder: ImageFolder, held_out: Sequence[str]) -> None:
    """Check that options are valid for the given images.

    Args:
        options: Options of SfM.
        folder: The images.
        held_out: Names of images held out for evaluation.

    Raises:
        NopeSplatError: For the first invalid option; the message says how to fix it.
    """
    unknown = sorted(set(held_out) - {image.name for image in folder.images})
    if unknown:
        raise NopeSplatError(
            "name-mismatch", f"the held-out photo {unknown[0]} is not in {folder.root}; check its name"
        )
    if assign_cameras(folder.images, options.camera_per).any():
        _check_multiple_cameras(options)
    if options.initial_focal is not None:
        longer_side = max(max(image.width, image.height) for image in folder.images)
        shortest, longest = (ratio * longer_side for ratio in POSSIBLE_FOCAL)
        if not shortest <= options.initial_focal <= longest:
            raise NopeSplatError(
                "invalid-option",
                f"initial-focal is {options.initial_focal:g}, but must be from {shortest:g} to {longest:g}"
                f" pixels for photos with a longer side of {longer_side} pixels; give it in pixels, not in"
                " millimeters",
            )


def _check_multiple_cameras(options: SfmOptions) -> None:
    """Raise an error if an option is used that supports only a single camera."""
    for is_used, option in (
        (options.initial_focal is not None, "initial-focal"),
        (isinstance(options.initialization, MonocularDepthInitialization), "initialization depth"),
        (isinstance(options.initialization, PointmapInitialization), "initialization pointmaps"),
    ):
        if is_used:
            raise NopeSplatError(
                "invalid-option",
                f"{option} requires photos from a single camera, but these photos have several sizes,"
                " folders or videos and therefore several cameras; remove this option",
            )
