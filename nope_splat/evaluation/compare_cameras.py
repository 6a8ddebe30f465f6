"""How two sets of cameras compare, image by image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nope_splat.errors import NopeSplatError
from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.io.cameras import NamedCamera


def compare_cameras(
    estimated: Mapping[str, NamedCamera], reference: Mapping[str, NamedCamera]
) -> PoseMetrics:
    """Measure cameras against others, whatever their world frames, scales and resolutions.

    Args:
        estimated: Cameras by image.
        reference: Cameras by image; those that `estimated` lacks count as failed.

    Returns:
        The metrics; the focal error is the mean over common images.

    Raises:
        NopeSplatError: If no image is in both.
    """
    common = estimated.keys() & reference.keys()
    if not common:
        raise NopeSplatError(
            "name-mismatch",
            f"no photo is in both: the first has {min(estimated)}, for example, the second"
            f" {min(reference)}; the names must agree",
        )
    ratio = float(np.mean([estimated[name].focal / reference[name].focal for name in common]))
    return compare_poses(
        {name: camera.T_world_camera for name, camera in estimated.items()},
        {name: camera.T_world_camera for name, camera in reference.items()},
        focal=ratio,
        true_focal=1.0,
    )


def focal_errors(
    estimated: Mapping[str, NamedCamera], reference: Mapping[str, NamedCamera]
) -> tuple[float, ...]:
    """Errors of the focal lengths, camera by camera: their mean may hide what two of them have amiss.

    Args:
        estimated: Cameras by image.
        reference: Cameras by image. Those with the same intrinsics are one camera.

    Returns:
        Mean error over its common images in percent, for each camera of the reference that has any, in
        the order of the names of their first images.
    """
    of_camera: dict[object, list[float]] = {}
    for name in sorted(estimated.keys() & reference.keys()):
        true = reference[name]
        error = 100 * (estimated[name].focal / true.focal - 1)
        of_camera.setdefault((true.focal, true.offset, true.radial), []).append(error)
    return tuple(float(np.mean(errors)) for errors in of_camera.values())
