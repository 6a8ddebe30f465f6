"""From rough cameras to points that agree with them: triangulation and adjustment, coarse to fine."""

from __future__ import annotations

import numpy as np

from nope_splat.sfm.state import WorkingScene
from nope_splat.sfm.triangulation import filter_observations, triangulate

START_ERRORS = (0.05, 0.01)
"""Largest reprojection errors of an observation while rough cameras are adjusted for the first times, as
shares of the longer side: room for a focal length wrong by a tenth."""


def settle(scene: WorkingScene, min_angle: float, device: str = "cpu") -> None:
    """Triangulate the tracks of registered photographs and adjust both, in rounds of falling thresholds.

    Args:
        scene: A scene with poses but without points; changed in place.
        min_angle: Smallest triangulation angle of a point, degrees.
        device: Torch device of bundle adjustment.
    """
    longer_side = 2 * float(scene.half_size.max())
    for share in START_ERRORS:
        triangulate(scene, share * longer_side, min_angle, np.ones(len(scene.points), bool))
        scene.rescale()
        scene.adjust(tolerance=1e-3, device=device)
        filter_observations(scene, share * longer_side, min_angle)
