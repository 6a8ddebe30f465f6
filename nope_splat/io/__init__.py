"""File input and output: image folders, COLMAP models, transforms.json, export."""
