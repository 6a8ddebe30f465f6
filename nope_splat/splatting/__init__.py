"""Gaussian splatting: parameters, rendering, losses, densification, and the rasterizer that they share."""
