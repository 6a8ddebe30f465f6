"""Measure memory, scaling, depth options and the noise of cameras."""
