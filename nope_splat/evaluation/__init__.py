"""Metrics of camera poses and of renderings of held-out images."""
