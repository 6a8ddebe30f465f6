"""Gaussians: parameters, rendering, losses and densification, and the rasterizer behind them."""
