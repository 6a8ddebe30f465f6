"""Gaussian splatting: parameters of Gaussians, rendering, losses, densification and rasterization."""
