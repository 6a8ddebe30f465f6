"""Keypoints and verified matches between photographs."""

from .types import Keypoints, PairMatches

__all__ = ["Keypoints", "PairMatches"]
