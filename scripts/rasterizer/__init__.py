"""Time the CPU rasterizer."""
