"""Compare the method with COLMAP and splatfacto on held-out images and on true cameras."""
