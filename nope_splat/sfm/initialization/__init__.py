"""Where a reconstruction starts: two views, known cameras, depth of single images, pointmaps."""
