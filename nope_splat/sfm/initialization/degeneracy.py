"""Images that do not show depth: taken by turning on the spot, or of one flat surface.

Either way a homography explains all matches of every pair. When the camera only turned by R, it is the
conjugate K R K^-1 of a rotation (Hartley and Zisserman, section 8.4), with one K for all pairs, and nothing
can be reconstructed. Otherwise the scene is a plane, which can be; but only views from aslant show the focal
length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nope_splat.geometry.projection import project
from nope_splat.geometry.rigid import nearest_rotation
from nope_splat.geometry.robust import cauchy_weight
from nope_splat.scene.features import PairMatches
from nope_splat.sfm.initialization.focal import PLAUSIBLE
from nope_splat.utils.typing import Array

MIN_SHARE = 0.9
"""Share of the matches that homographies, or rotations, explain where nothing else is needed.

Matches of solid scenes come to 0.8 at most, however much of them one wall takes up."""
MAX_ERROR = 4.0
"""Largest error of a match that a rotation explains, feature pixels: as with homographies in verification."""
MAX_PAIRS = 50
"""Most pairs asked, those with the most matches."""
MAX_MATCHES = 200
"""Most matches of each of them."""
GRID = 32
"""Focal lengths tried before the best one is refined."""
ROUNDS = 10
"""Reweighted fits of each rotation."""


def is_planar_or_rotation(pairs: Sequence[PairMatches]) -> bool:
    """Whether homographies explain the matches: the camera only turned, or the scene is flat.

    Args:
        pairs: Verified matches, at least one pair.
    """
    explained = sum(pair.homography_ratio * len(pair.indices) for pair in pairs)
    return explained >= MIN_SHARE * sum(len(pair.indices) for pair in pairs)


def is_pure_rotation(positions: Sequence[Array], pairs: Sequence[PairMatches], longer_side: float) -> bool:
    """Whether rotations of a camera of one focal length explain the matches.

    A camera that slides along a plane does nearly what a turning one with an endless focal length does: the
    focal length that explains most must lie within the plausible ones, not at their end.

    Args:
        positions: Keypoints of each image, feature pixels from the image center. (K, 2) each.
        pairs: Verified matches, at least one pair.
        longer_side: Longer side of the images in feature pixels.
    """
    rng = np.random.default_rng(0)
    matches: list[tuple[Array, Array]] = []
    for pair in sorted(pairs, key=lambda pair: -len(pair.indices))[:MAX_PAIRS]:
        chosen = rng.permutation(len(pair.indices))[:MAX_MATCHES]
        first, second = pair.indices[chosen].T
        matches.append((positions[pair.first][first], positions[pair.second][second]))

    def errors(log_focal: float) -> Array:
        focal = float(np.exp(log_focal))
        return np.concatenate([_rotation_errors(first, second, focal) for first, second in matches])

    def cost(log_focal: float) -> float:
        return float(np.mean(np.minimum(errors(log_focal) / MAX_ERROR, 1) ** 2))

    candidates = np.log(np.geomspace(PLAUSIBLE[0], PLAUSIBLE[1], GRID) * longer_side)
    best = int(np.argmin([cost(candidate) for candidate in candidates]))
    if best in (0, GRID - 1):
        return False
    # Neighboring candidates differ by eight percent, which may move matches by pixels.
    fine = np.linspace(candidates[best - 1], candidates[best + 1], GRID)
    found = fine[int(np.argmin([cost(candidate) for candidate in fine]))]
    return bool(np.mean(errors(found) < MAX_ERROR) >= MIN_SHARE)


def _rotation_errors(first: Array, second: Array, focal: float) -> Array:
    """Distances of matches from where the best rotation takes them, pixels. (M, 2), (M, 2) -> (M,)."""
    rays_first, rays_second = (
        np.concatenate([xy, np.full((len(xy), 1), focal)], axis=1) for xy in (first, second)
    )
    unit_first = rays_first / np.linalg.norm(rays_first, axis=1, keepdims=True)
    unit_second = rays_second / np.linalg.norm(rays_second, axis=1, keepdims=True)
    weights, errors = np.ones(len(first)), np.zeros(len(first))
    for _ in range(ROUNDS):  # a few matches are wrong
        turned = rays_first @ nearest_rotation((unit_second * weights[:, None]).T @ unit_first).T
        errors = np.linalg.norm(project(turned, focal, min_depth=1e-9) - second, axis=1)
        weights = cauchy_weight(errors**2, MAX_ERROR)
    return errors
