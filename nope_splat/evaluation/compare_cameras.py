"""Comparison of two sets of cameras, matched by image name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.io.cameras import NamedCamera


def compare_cameras(
    estimated: Mapping[str, NamedCamera], reference: Mapping[str, NamedCamera]
) -> PoseMetrics:
    """Compare estimated cameras to reference cameras, independently of world frame, scale and resolution.

    Args:
        estimated: Estimated cameras by image name.
        reference: Reference cameras by image name. Images missing from `estimated` count as not registered.

    Returns:
        The metrics. The focal length error is the mean over the images that are in both sets.

    Raises:
        NopeSplatError: If the two sets have no image in common, or the reference has only one image.
    """
    common = estimated.keys() & reference.keys()
    if not common:
        raise NopeSplatError(
            "name-mismatch",
            f"the two sets of cameras have no photo in common (for example, {min(estimated)} in the first"
            f" and {min(reference)} in the second); use the same photo names in both",
        )
    if len(reference) < 2:
        raise NopeSplatError(
            "no-cameras",
            f"the reference has a camera for only one photo ({min(reference)}), but relative poses need two;"
            " pass a reference with more cameras",
        )
    ratio = float(np.mean([estimated[name].focal / reference[name].focal for name in common]))
    return compare_poses(
        {name: camera.T_world_camera for name, camera in estimated.items()},
        {name: camera.T_world_camera for name, camera in reference.items()},
        focal=ratio,
        true_focal=1.0,
    )


@dataclass(frozen=True)
class FocalError:
    """Relative error of the estimated focal length, averaged over the images of one reference camera."""

    percent: float
    """Mean relative error over `images`, in percent; positive if the estimated focal length is too long."""
    images: tuple[str, ...]
    """Names of the reference camera's images that have an estimated focal length, in alphabetical order."""


def focal_errors(
    estimated: Mapping[str, NamedCamera], reference: Mapping[str, NamedCamera]
) -> tuple[FocalError, ...]:
    """Compute the relative focal length error of each reference camera.

    The errors are returned per camera, because positive and negative errors would cancel in a mean over all
    cameras.

    Args:
        estimated: Estimated cameras by image name.
        reference: Reference cameras by image name. Images with the same focal length, projection and
            distortion count as images of one camera; the principal point depends on how the image was turned
            upright.

    Returns:
        One error per reference camera, sorted by the alphabetically first image name of the camera. Cameras
        without images in `estimated` are omitted.
    """
    images_by_camera: dict[object, list[str]] = {}
    for name in sorted(estimated.keys() & reference.keys()):
        camera = reference[name]
        images_by_camera.setdefault((camera.focal, camera.is_fisheye, camera.distortion), []).append(name)
    return tuple(
        FocalError(
            float(np.mean([100 * (estimated[name].focal / reference[name].focal - 1) for name in names])),
            tuple(names),
        )
        for names in images_by_camera.values()
    )
