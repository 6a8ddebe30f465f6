"""Helpers that know nothing of the method: cache, progress, ranges and defaults of settings."""
