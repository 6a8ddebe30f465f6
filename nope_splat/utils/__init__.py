"""Helpers independent of the method: cache, progress, ranges and device defaults of settings."""
