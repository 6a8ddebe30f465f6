"""Data passed between stages: features, tracks and the reconstruction."""
