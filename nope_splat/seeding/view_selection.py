"""Which images to compare an image with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MIN_SHARED = 30
_GOOD_ANGLES = (4.0, 25.0)
"""Degrees of parallax between which a shared point counts fully: less is imprecise, more looks different."""


def choose_partners(
    centers: NDArray[np.float64],
    points: NDArray[np.float64],
    visibility: NDArray[np.bool_],
    count: int,
) -> list[NDArray[np.int64]]:
    """Rank the images by the track points they share with useful parallax.

    Args:
        centers: Camera centers in world coordinates. (N, 3).
        points: Track points in world coordinates. (P, 3).
        visibility: Which image sees which point. (N, P).
        count: Partners per image, at most.

    Returns:
        For each image, the indices of its partners, best first.
    """
    partners = []
    for image_id, center in enumerate(centers):
        scores = np.zeros(len(centers))
        for other, other_center in enumerate(centers):
            shared = points[visibility[image_id] & visibility[other]]
            if other == image_id or len(shared) < _MIN_SHARED:
                continue
            a, b = shared - center, shared - other_center
            cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            low, high = _GOOD_ANGLES
            scores[other] = (np.minimum(1, angle / low) * np.minimum(1, high / np.maximum(angle, 1))).sum()
        ranked = np.argsort(-scores, kind="stable")[:count]
        partners.append(ranked[scores[ranked] > 0])
    return partners
