"""How images are registered: one by one, in batches, along the spanning tree; resection."""
