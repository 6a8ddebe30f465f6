"""Check that the arrays of stored reconstructions and matches are consistent with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nope_splat.geometry.rigid import invert
from nope_splat.scene.features import Keypoints, PairMatches
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.scene.tracks import Observations


def consistent_reconstruction(arrays: Mapping[str, NDArray[Any]]) -> Reconstruction:
    """Convert stored arrays to a reconstruction, and check that the arrays are consistent.

    Args:
        arrays: Arrays from `Reconstruction.to_arrays`, by name.

    Raises:
        ValueError: If an array has a wrong type or shape, an index is out of range, or a number is not
            finite.
    """
    scene = Reconstruction.from_arrays(arrays)
    n, num_points, graph = len(scene.image_names), len(scene.points), scene.graph
    _require("image_sizes", scene.image_sizes, "i", (n, 2), valid=(1, 10**9))
    _require("camera_ids", scene.camera_ids, "i", (n,), valid=(0, len(scene.cameras)))
    _require("held_out", scene.held_out, "b", (n,))
    _require("registered", scene.registered, "b", (n,))
    _require("T_world_camera", scene.T_world_camera, "f", (n, 4, 4))
    if not np.allclose(scene.T_world_camera @ invert(scene.T_world_camera), np.eye(4), atol=1e-6):
        raise ValueError("T_world_camera contains a transform that is not rigid")
    if scene.upright_from_sensor is not None:
        _require("upright_from_sensor", scene.upright_from_sensor, "f", (n, 2, 2))
    _require("points", scene.points, "f", (num_points, 3))
    _require("colors", scene.colors, "u", (num_points, 3))
    _require("noise", scene.noise, "f", (len(scene.observations),))
    for name, observations in (("observations", scene.observations), ("resections", scene.resections)):
        _require_observations(name, observations, num_points, n)
    _require("graph.edges", graph.edges, "i", (len(graph.edges), 2), valid=(0, n))
    _require("graph.weights", graph.weights, "i", (len(graph.edges),))
    _require("graph.tree", graph.tree, "i", (len(graph.tree),), valid=(0, len(graph.edges)))
    _require_trust(scene)
    intrinsics = np.array([(camera.focal, *camera.offset, *camera.distortion) for camera in scene.cameras])
    _require("cameras", intrinsics, "f", (len(scene.cameras), 9))
    texts = (*scene.image_names, *scene.failures.values(), *(notice.message for notice in scene.notices))
    seconds = np.array(list(scene.seconds.values()), np.float64)
    if graph.num_images != n or not all(isinstance(text, str) for text in texts):
        raise ValueError("its names are damaged")
    if not ((intrinsics[:, 0] > 0).all() and np.isfinite(seconds).all()):
        raise ValueError("its cameras or times are damaged")
    return scene


def require_consistent_matches(keypoints: Sequence[Keypoints], pairs: Sequence[PairMatches]) -> None:
    """Check the types and shapes of keypoints and matches, and that matches refer to existing keypoints.

    Args:
        keypoints: Keypoints of each image.
        pairs: Verified matches of image pairs.

    Raises:
        ValueError: If an array has a wrong type or shape, an index is out of range, or a number is not
            finite.
    """
    for features in keypoints:
        count = len(features.xy)
        _require("xy", features.xy, "f", (count, 2))
        _require("noise", features.noise_or_ones(), "f", (count,))
        _require("pixel_size", np.array(features.pixel_size), "f", ())
    for pair in pairs:
        if not 0 <= pair.first < pair.second < len(keypoints):
            raise ValueError("it has a pair of images that do not exist")
        counts = [len(keypoints[image].xy) for image in (pair.first, pair.second)]
        for column, end in zip(pair.indices.T, counts, strict=True):
            _require("indices", column, "i", (len(pair.indices),), valid=(0, end))
        if pair.fundamental.shape != (3, 3):
            raise ValueError("it has a damaged fundamental matrix")


def _require_trust(scene: Reconstruction) -> None:
    """Raise a ValueError if the trust or the stationary pixels of a reconstruction are invalid.

    The trust of an image or pair may be NaN.
    """
    if scene.trust is not None:
        images, pairs = scene.trust.images, scene.trust.pairs
        _require("trust.images", np.nan_to_num(images), "f", (len(scene.image_names),))
        _require("trust.pairs", np.nan_to_num(pairs), "f", (len(scene.graph.edges),))
        values = np.array([scene.trust.score, *astuple(scene.trust.doubts)])
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("trust is out of range")
    for pixels in scene.stationary:
        _require("stationary.size", np.array(pixels.size), "i", (2,), valid=(1, 10**9))
        _require("stationary.cells", pixels.cells, "b", pixels.cells.shape[:2])


def _require_observations(name: str, observations: Observations, num_points: int, num_images: int) -> None:
    """Raise a ValueError that contains `name` if arrays of observations are invalid or inconsistent."""
    count = len(observations.point_ids)
    _require(f"{name}.point_ids", observations.point_ids, "i", (count,), valid=(0, num_points))
    _require(f"{name}.image_ids", observations.image_ids, "i", (count,), valid=(0, num_images))
    _require(f"{name}.xy", observations.xy, "f", (count, 2))


def _require(
    name: str, array: NDArray[Any], kind: str, shape: tuple[int, ...], valid: tuple[int, int] | None = None
) -> None:
    """Raise a ValueError if an array has a wrong type or shape, or contains a value that is not allowed.

    `name` is the name of the array, for the message. `kind` is the expected `dtype.kind`; floating-point
    values must be finite. `valid` is the range of allowed values, (minimum, maximum + 1); None allows all
    values.
    """
    if array.dtype.kind != kind or array.shape != shape:
        raise ValueError(f"{name} has the type {array.dtype} and the shape {array.shape}")
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    if valid is not None and array.size and not valid[0] <= array.min() <= array.max() < valid[1]:
        raise ValueError(f"{name} is out of range")
