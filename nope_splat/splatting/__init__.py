"""Gaussians, their rendering, losses and densification; the rasterizer that draws them."""
