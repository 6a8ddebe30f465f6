"""What is handed from stage to stage: features, tracks, the reconstruction."""
