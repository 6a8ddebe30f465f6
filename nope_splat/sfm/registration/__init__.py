"""Registration of images: incrementally, in batches or along a spanning tree; resection from known points."""
