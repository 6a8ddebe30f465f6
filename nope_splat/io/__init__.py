"""Everything that touches files: image folders, COLMAP models, transforms.json, cameras of others, export."""
