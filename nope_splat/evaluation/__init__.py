"""Metrics of cameras and of held-out images."""
