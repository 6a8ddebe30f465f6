"""What the user can choose about matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MatchingSettings:
    """How photographs are matched."""

    matcher: Literal["sift"] = "sift"
    """Kind of keypoints and of matching."""
    max_keypoints: int = 4096
    """Keypoints per photograph, the strongest ones."""
    max_feature_size: int = 1600
    """Longer side, in pixels, at which keypoints are sought; larger photographs are scaled down for it."""
    match_ratio: float = 0.8
    """A match must be closer than this times the second best match (Lowe's ratio)."""
    max_epipolar_error: float = 2.0
    """Largest distance of a match from the epipolar geometry of its pair, in pixels at the feature size."""
    min_matches: int = 15
    """Pairs with fewer verified matches are not used."""
    max_exhaustive_photos: int = 200
    """Up to this many photographs, every pair is matched; the time grows with the square of their number."""
    seed: int = 0
    """Seed of every random choice (RANSAC)."""
