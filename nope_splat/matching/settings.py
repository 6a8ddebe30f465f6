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
    pairs: Literal["exhaustive", "retrieval", "sequential"] | None = None
    """Which pairs of photographs are matched: all; those that look most alike (by their keypoints, nothing is
    downloaded), for hundreds; or those that follow on each other by name, for the frames of a video. If not
    given, all pairs up to max-exhaustive-photos, and retrieval beyond."""
    num_partners: int = 20
    """Photographs that each one is matched with, by retrieval (at least) or in sequence."""
    max_exhaustive_photos: int = 100
    """Most photographs of which every pair is matched unless asked for; the time grows with their square."""
    seed: int = 0
    """Seed of every random choice (RANSAC, and the vocabulary of retrieval)."""
