"""Keypoints and verified matches between photographs."""

from nope_splat.matching.matching import extract_keypoints, match_chosen, match_pairs, match_photos
from nope_splat.matching.options import MatchingSettings
from nope_splat.matching.pairs import choose_pairs
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches, PairPointmaps, Pointmaps

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
