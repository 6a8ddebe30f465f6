"""Methods of initialization: two views, known cameras, monocular depth maps or pointmaps."""
