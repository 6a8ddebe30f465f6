"""Keypoints and verified matches between photographs."""

from .match import extract_keypoints, match_chosen, match_pairs, match_photos
from .pairs import choose_pairs
from .settings import MatchingSettings
from .types import Keypoints, MatchedPairs, PairMatches, PairPointmaps, Pointmaps

__all__ = [
    "Keypoints",
    "MatchedPairs",
    "MatchingSettings",
    "PairMatches",
    "PairPointmaps",
    "Pointmaps",
    "choose_pairs",
    "extract_keypoints",
    "match_chosen",
    "match_pairs",
    "match_photos",
]
