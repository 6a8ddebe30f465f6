"""Benchmark of nope-splat against COLMAP and splatfacto, on held-out images and with true cameras."""
