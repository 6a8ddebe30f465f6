"""Selection of the source views that an image is matched with by optical flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nope_splat.seeding.settings import ViewSelectionConfig


def select_source_views(
    centers: NDArray[np.floating],
    points: NDArray[np.floating],
    visibility: NDArray[np.bool_],
    max_num_views: int,
    config: ViewSelectionConfig | None = None,
) -> list[NDArray[np.int64]]:
    """Select, for every image, the source views that share the most track points with the image.

    Shared points count less if their triangulation angle is too small or too large (see
    `ViewSelectionConfig`).

    Args:
        centers: Camera centers in world coordinates. (N, 3).
        points: Track points in world coordinates. (P, 3).
        visibility: Whether image n observes point p. (N, P).
        max_num_views: Maximum number of source views per image.
        config: Minimum number of shared points, and range of angles with full weight; default options if
            None.

    Returns:
        Indices of the source views of each image, best view first; an empty array for images without source
        views.
    """
    config = config or ViewSelectionConfig()
    source_views = []
    for image_id, center in enumerate(centers):
        scores = np.zeros(len(centers))
        for source_id, source_center in enumerate(centers):
            shared = points[visibility[image_id] & visibility[source_id]]
            if source_id == image_id or len(shared) < config.min_shared_points:
                continue
            scores[source_id] = _angle_weights(shared - center, shared - source_center, config).sum()
        ranked = np.argsort(-scores, kind="stable")[:max_num_views]
        source_views.append(ranked[scores[ranked] > 0])
    return source_views


def _angle_weights(
    rays: NDArray[np.floating], source_rays: NDArray[np.floating], config: ViewSelectionConfig
) -> NDArray[np.floating]:
    """Compute the weight of each shared point from its triangulation angle.

    The weight is 1 within the range of full weight, angle / `min_full_weight_angle` below the range, and
    `max_full_weight_angle` / angle above the range.

    Args:
        rays: Vectors from the camera center of the image to the points. (P, 3).
        source_rays: Vectors from the camera center of the source view to the points. (P, 3).
        config: Range of angles with full weight.

    Returns:
        One weight per point, 0 to 1. (P,).
    """
    norms = np.linalg.norm(rays, axis=1) * np.linalg.norm(source_rays, axis=1)
    cosine = (rays * source_rays).sum(1) / norms
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return np.minimum(1, angle / config.min_full_weight_angle) * np.minimum(
        1, config.max_full_weight_angle / np.maximum(angle, 1)
    )
