"""A procedural valley, rendered to images with known cameras."""
