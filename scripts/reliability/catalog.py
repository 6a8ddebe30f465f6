"""Catalog of all image sets of the benchmark."""

from __future__ import annotations

from scripts.reliability import edited, honest, known_cameras, numerics, repeated, symmetric
from scripts.reliability.image_set import ImageSet


def all_sets() -> list[ImageSet]:
    """Return all image sets that the benchmark can make, family by family."""
    families = (repeated, symmetric, edited, numerics, known_cameras, honest)
    return [image_set for family in families for image_set in family.image_sets()]
