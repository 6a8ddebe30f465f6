"""Connected components of the match graph, and error messages for images that cannot be registered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError
from nope_splat.matching.database import MatchDatabase
from nope_splat.scene.tracks import MatchGraph, connected_images
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.sfm.initialization.pointmap_alignment import PointmapInitialization
from nope_splat.sfm.options import SfmOptions
from nope_splat.utils.typing import Indices

MAX_NAMES = 10
"""Maximum number of image names in a message."""
ADVICE = "take photos of one scene close enough together that neighbors overlap by at least half"
"""Advice in messages about photos that do not match."""


def training_components(graph: MatchGraph) -> list[Indices]:
    """Find connected components of two or more images, sorted by number of images, then by number of matches.

    Args:
        graph: Match graph of the training images.

    Returns:
        Image indices of each component, largest component first.
    """
    matches = np.bincount(graph.edges.ravel(), np.repeat(graph.weights, 2), graph.num_images)
    components = [component for component in connected_images(graph) if len(component) > 1]
    return sorted(components, key=lambda component: (-len(component), -matches[component].sum()))


def require_matches(
    names: Sequence[str],
    held_out: NDArray[np.bool_],
    matches: MatchDatabase,
    components: Sequence[Indices],
    min_matches: int,
) -> None:
    """Raise an error if the images have too few matches to be reconstructed.

    Args:
        names: Names of the images.
        held_out: Whether each image is held out for evaluation. (N,).
        matches: Keypoints of each image, and which images are mirrored.
        components: Image indices of each connected component, from `training_components`.
        min_matches: Minimum number of matches of a verified pair; images with fewer keypoints count as images
            without texture.

    Raises:
        NopeSplatError: If there are fewer than two training images, no image has texture, no two images
            match, or images match only as isolated pairs.
    """
    training = np.flatnonzero(~held_out).tolist()
    if len(training) < 2:
        raise NopeSplatError(
            "too-few-images",
            f"only {len(training)} of {len(names)} photos remain for reconstruction, but at least two"
            " are needed; hold out fewer photos",
        )
    if all(len(matches.keypoints[image_id].xy) < min_matches for image_id in training):
        raise NopeSplatError(
            "no-texture",
            f"none of the {len(training)} photos has enough texture to find keypoints; check whether they"
            " are blurred, blank or masked out (if the masks are inverted, set invert-masks)",
        )
    if not components and matches.mirrored.any():
        mirrored = list_names([str(names[image_id]) for image_id in matches.mirrored_ids.tolist()])
        raise NopeSplatError(
            "no-matches",
            f"no two of the {len(training)} photos match, because some are mirrored; flip {mirrored} left"
            " to right",
        )
    if not components and len(training) == 2:
        first, second = (names[image_id] for image_id in training)
        raise NopeSplatError(
            "no-matches", f"{first} and {second} do not match and seem to show different scenes; {ADVICE}"
        )
    if not components:
        raise NopeSplatError("no-matches", f"no two of the {len(training)} photos match; {ADVICE}")
    if len(components) > 1 and len(components[0]) == 2:
        pairs = sorted(map(tuple, components))[:MAX_NAMES]
        listed = "; ".join(f"{names[first]} with {names[second]}" for first, second in pairs)
        raise NopeSplatError(
            "no-matches",
            f"the photos match only as isolated pairs ({listed}), not as a connected set; {ADVICE}",
        )


def no_initialization(options: SfmOptions, has_parallax: bool) -> NopeSplatError:
    """Create the error for the case that no connected component of the images can be initialized.

    Args:
        options: Options of SfM.
        has_parallax: Whether any connected component has parallax.

    Returns:
        The error, which the caller raises.
    """
    uses_depth = isinstance(options.initialization, MonocularDepthInitialization | PointmapInitialization)
    if not (has_parallax and uses_depth):
        return NopeSplatError(
            "no-baseline",
            "the photos match, but no two of them were taken far enough apart to determine depth; walk"
            " around the subject instead of only rotating the camera",
        )
    source = f"the depth maps in {options.depth.maps}"
    advice = "check that they belong to these photos and that depth.kind is correct"
    if options.matching.matcher == "dust3r":
        source, advice = "the pointmaps", "add photos with more overlap"
    elif options.depth.maps is None:
        source, advice = f"the depth maps of {options.depth.model}", "choose another depth.model"
    return NopeSplatError(
        "inconsistent-depth",
        f"{source} contradict the matches of all photos; {advice}, or choose another initialization",
    )


def failure_reasons(
    names: Sequence[str],
    unregistered: Indices,
    components: Sequence[Indices],
    reconstructed: Indices,
    failures: dict[int, str],
) -> dict[str, str]:
    """Explain why training images were not registered.

    Args:
        names: Names of all images.
        unregistered: Indices of the training images without a pose.
        components: Image indices of each connected component, from `training_components`.
        reconstructed: The element of `components` that was reconstructed.
        failures: Reasons from registration for images in the reconstructed component, by image index.

    Returns:
        Reason by image name.
    """
    reasons = {}
    for image_id in unregistered.tolist():
        component = next((component for component in components if image_id in component), None)
        if component is None:
            reason = "no verified matches with any other photo"
        elif component is reconstructed:
            reason = failures.get(image_id, "its matches are not consistent with any relative pose")
        else:
            listed = list_names([str(names[member]) for member in component])
            reason = f"in a group of {len(component)} photos without matches to the other photos: {listed}"
        reasons[names[image_id]] = reason
    return reasons


def mirrored_failures(
    names: Sequence[str], mirrored: NDArray[np.bool_], registered: NDArray[np.bool_]
) -> dict[str, str]:
    """Explain why mirrored images were not registered.

    Args:
        names: Names of all images.
        mirrored: Whether each image is mirrored relative to the other images. (N,).
        registered: Whether each image has a pose. (N,).

    Returns:
        Reason by image name.
    """
    return {
        str(names[image_id]): "it is mirrored: left and right are exchanged"
        for image_id in np.flatnonzero(mirrored & ~registered).tolist()
    }


def list_names(names: Sequence[str]) -> str:
    """Join image names for a message, and shorten long lists.

    Args:
        names: Image names; only the first `MAX_NAMES` are listed.
    """
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
