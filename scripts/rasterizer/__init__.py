"""Time measurements of the CPU rasterizer."""
