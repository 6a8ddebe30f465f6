"""File input and output: image folders, masks, camera files (COLMAP, `transforms.json`) and export."""
