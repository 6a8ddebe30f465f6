"""A made-up valley, rendered as images with known cameras."""
