"""The sparse scene: what reconstruction hands to splatting, to the exporters and to the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nope_splat.camera import SharedPinhole
from nope_splat.tracks import MatchGraph, Observations


@dataclass(frozen=True)
class SparseScene:
    """Cameras and track points in one world frame, with the observations that support them.

    The world is normalised: z points up as the cameras have it, the median depth of the observations
    is one, the origin is the median of the points.
    """

    photo_names: tuple[str, ...]
    """Names of all N photographs of the folder, held-out and unregistered ones included."""
    photo_sizes: NDArray[np.int64]
    """Width and height, upright, full resolution. (N, 2)."""
    held_out: NDArray[np.bool_]
    """Photographs kept for evaluation: no track, focal length or adjustment has seen them. (N,)."""
    registered: NDArray[np.bool_]
    """Photographs with a pose. A held-out one is registered against the finished points. (N,)."""
    T_world_camera: NDArray[np.float64]
    """Camera-to-world transforms, OpenCV axes; the identity where unregistered. (N, 4, 4)."""
    camera: SharedPinhole
    """The camera that all photographs share."""
    points: NDArray[np.float64]
    """Track points in world coordinates. (P, 3)."""
    colors: NDArray[np.uint8]
    """Mean colour of each point over its observations, RGB. (P, 3)."""
    observations: Observations
    """Observations of the points in registered training photographs; every point has at least two."""
    resections: Observations
    """Observations of the points in registered held-out photographs, found after everything else."""
    failures: dict[str, str]
    """Photographs without a pose: name to reason."""
    graph: MatchGraph
    """Match graph of the training photographs, in indices of `photo_names`."""
    seconds: dict[str, float]
    """Wall time of each stage."""
