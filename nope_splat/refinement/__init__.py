"""Cameras against renderings: photometric equations, joint refinement, the pose of a single image."""
