"""Keypoint extraction, pair selection, matching and geometric verification."""

from nope_splat.matching.matching import extract_keypoints, match_images, match_keypoints, match_pairs
from nope_splat.matching.options import (
    MatchingSettings,
    PointmapOptions,
    RetrievalOptions,
    SiftOptions,
    TransitiveMatchingOptions,
    TwoViewGeometryOptions,
)
from nope_splat.matching.pairs import choose_pairs
from nope_splat.scene.features import Keypoints, MatchedPairs, PairMatches, PairPointmaps, Pointmaps

__all__ = [
    "Keypoints",
    "MatchedPairs",
    "MatchingSettings",
    "PairMatches",
    "PairPointmaps",
    "PointmapOptions",
    "Pointmaps",
    "RetrievalOptions",
    "SiftOptions",
    "TransitiveMatchingOptions",
    "TwoViewGeometryOptions",
    "choose_pairs",
    "extract_keypoints",
    "match_images",
    "match_keypoints",
    "match_pairs",
]
