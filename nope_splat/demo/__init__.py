"""The demo scene: a procedural valley, rendered to images with known cameras."""
