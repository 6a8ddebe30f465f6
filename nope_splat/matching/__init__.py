"""Keypoints and verified matches between photographs."""

from .match import extract_keypoints, match_pairs, match_photos
from .pairs import choose_pairs
from .settings import MatchingSettings
from .types import Keypoints, PairMatches, PairPointmaps, Pointmaps

__all__ = [
    "Keypoints",
    "MatchingSettings",
    "PairMatches",
    "PairPointmaps",
    "Pointmaps",
    "choose_pairs",
    "extract_keypoints",
    "match_pairs",
    "match_photos",
]
