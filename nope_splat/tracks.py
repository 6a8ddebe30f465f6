"""Match graph, maximum spanning tree, and feature tracks by union-find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Observations:
    """Sightings of points in photographs, one row each, sorted by point, then by photograph."""

    point_ids: NDArray[np.int64]
    """Index of the point (or track). (O,)."""
    photo_ids: NDArray[np.int64]
    """Index of the photograph. (O,)."""
    xy: NDArray[np.float64]
    """Where the point is seen, in pixels of the full-resolution photograph. (O, 2)."""

    def __len__(self) -> int:
        return len(self.point_ids)


@dataclass(frozen=True)
class Tracks:
    """Feature tracks: sets of keypoints, at most one per photograph, that show the same point."""

    observations: Observations
    """The keypoints of every track; `point_ids` are track indices."""
    keypoint_ids: NDArray[np.int64]
    """Index of each observation's keypoint in its photograph. (O,)."""

    def __len__(self) -> int:
        return int(self.observations.point_ids[-1]) + 1 if len(self.observations) else 0


@dataclass(frozen=True)
class MatchGraph:
    """Photographs as nodes, verified pairs as edges, number of matches as weight."""

    num_photos: int
    """Number of nodes."""
    edges: NDArray[np.int64]
    """Photograph indices of each verified pair. (E, 2)."""
    weights: NDArray[np.int64]
    """Number of verified matches of each pair. (E,)."""
    tree: NDArray[np.int64]
    """Indices into `edges` of the maximum spanning forest. (T,)."""
