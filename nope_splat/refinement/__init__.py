"""Refine cameras against renderings: photometric alignment, joint refinement, and single poses."""
