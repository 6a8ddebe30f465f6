"""Keypoints and verified matches between images."""

from nope_splat.matching.matching import extract_keypoints, match_chosen, match_images, match_pairs
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
    "match_images",
    "match_pairs",
]
