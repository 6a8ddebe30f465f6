"""Refinement of cameras by comparing renderings with images: all cameras jointly, or a single pose."""
