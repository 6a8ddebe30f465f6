"""A made-up valley, rendered as photographs with known cameras."""
